package policy

import (
	"context"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A state is what policies remember of one exchange between its request and its end. It is there only for
// rules that need one, and travels in the Context.
type state struct {
	release []release
	cookies []string // Set-Cookie of external authentication, for the answer
}

// A release is a place among the concurrent requests of a client.
type release struct {
	table *limitTable
	key   limitKey
}

func (s *state) done() {
	for _, r := range s.release {
		r.table.leave(r.key)
	}
	s.release = nil
}

type stateKey struct{}

// stateOf returns the state of x, or nil if it has none.
func stateOf(x *exchange.Exchange) *state {
	if x.Context == nil {
		return nil
	}
	s, _ := x.Context.Value(stateKey{}).(*state)
	return s
}

// needState returns the state of x, and makes one if there is none.
func needState(x *exchange.Exchange) *state {
	if s := stateOf(x); s != nil {
		return s
	}
	if x.Context == nil {
		x.Context = context.Background()
	}
	s := &state{}
	x.Context = context.WithValue(x.Context, stateKey{}, s)
	return s
}
