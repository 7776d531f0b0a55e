package xt

import (
	"context"
	"errors"
)

// NoRules is a [Runner] for tables that have no rule of ours: for the clean-up of what is beside rules, after those have
// been removed from every table there is.
type NoRules struct{ Runner }

// Save implements [Runner].
func (NoRules) Save(context.Context, Family) (*State, error) { return &State{}, nil }

// Restore implements [Runner]. It has nothing to write.
func (NoRules) Restore(_ context.Context, r *Restore) error {
	if r.Empty() {
		return nil
	}
	return errors.New("rules have come back while they were removed")
}
