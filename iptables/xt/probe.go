package xt

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// probeChain is where Probe tries rules. Named like all else that is ours, what a
// crash leaves behind is found and removed.
const probeChain = Prefix + "PROBE"

// A Feature is something that rules need of the kernel.
type Feature struct {
	Name   string
	Module string // what to load or configure, for the error message
	Table  Table
	Rule   Rule
}

// Probe tries a rule for each feature, in chains that no packet comes by, and
// removes them again. The error names what is missing, with the kernel module that
// has it.
func Probe(ctx context.Context, run Runner, f Family, all ...Feature) error {
	first := try(ctx, run, f, all...)
	if first == nil {
		return nil
	}
	var errs []error
	for _, x := range all {
		if err := try(ctx, run, f, x); err != nil {
			errs = append(errs, fmt.Errorf("%v: %s is not possible; perhaps the kernel lacks %s: %w", f, x.Name, x.Module, err))
		}
	}
	if len(errs) == 0 || len(errs) == len(all) { // not a matter of single features
		return fmt.Errorf("%v: add rules: %w", f, first)
	}
	return errors.Join(errs...)
}

// try adds rules for all and deletes them, whatever happened.
func try(ctx context.Context, run Runner, f Family, all ...Feature) (err error) {
	add, remove := &Restore{Family: f}, &Restore{Family: f}
	for _, table := range []Table{Mangle, NAT, Filter} {
		chain := Chain{Name: probeChain}
		for _, x := range all {
			if x.Table == table {
				chain.Rules = append(chain.Rules, x.Rule)
			}
		}
		if len(chain.Rules) == 0 {
			continue
		}
		add.Tables = append(add.Tables, TableRestore{Table: table, Write: []Chain{chain}})
		remove.Tables = append(remove.Tables, TableRestore{Table: table, Delete: []string{probeChain}})
	}
	defer func() {
		// The tables before the one that failed are committed.
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, run.Restore(late, remove))
	}()
	return run.Restore(ctx, add)
}
