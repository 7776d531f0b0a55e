//go:build linux

package world

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/service/servicetest"
)

// A Runner plays cases in a World. Not for concurrent use.
type Runner struct {
	World   *World  // required
	Source  Source  // required
	Program Program // required
	// Lag is how long the proxy may take, after its rules are in force, with what
	// it does on the side: health-check node ports and complaints. 0 means 5 s.
	Lag time.Duration
	// OnFailure is called with the case while the proxy of the first failure is
	// still there. Optional.
	OnFailure func(*servicetest.Case, *Proxy)
}

// Run plays a case with a new process of the program, which meets what the last
// one left in the kernel. An error means that the case could not be played to
// its end: the flows of the Report up to then count all the same.
func (r *Runner) Run(ctx context.Context, c *servicetest.Case) (rep Report, err error) {
	defer func() {
		for i := range rep.Failures {
			rep.Failures[i].Case = c.Name
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", c.Name, err)
		}
	}()
	var extra []netip.Addr
	if c.Config.Addrs != "" {
		for s := range strings.SplitSeq(c.Config.Addrs, ",") {
			extra = append(extra, netip.MustParseAddr(s))
		}
	}
	if err := errors.Join(r.World.Silence(), r.World.Localize(extra), r.Source.Reset(ctx)); err != nil {
		return rep, fmt.Errorf("clean up after the last case: %w", err)
	}
	s := session{Runner: r, c: c}
	rep, err = s.play(ctx)
	return rep, errors.Join(err, s.close())
}

// A session is a case being played.
type session struct {
	*Runner
	c      *servicetest.Case
	proxy  *Proxy
	marker *Marker
	told   bool // of a failure
}

func (s *session) play(ctx context.Context) (Report, error) {
	var rep Report
	for i := range s.c.Steps {
		step := &s.c.Steps[i]
		if err := s.World.Prepare(step); err != nil {
			return rep, err
		}
		if err := s.apply(ctx, step); err != nil {
			s.failed()
			return rep, fmt.Errorf("step %q: %w", step.Name, err)
		}
		got := s.World.Play(ctx, step)
		got.Failures = slices.Concat(got.Failures,
			s.checkHealth(ctx, step), s.checkProblems(ctx, i))
		rep.Add(got)
		if len(got.Failures) > 0 {
			s.failed()
		}
	}
	return rep, nil
}

// apply brings the proxy the objects of a step, starts it if it is the first,
// and waits until they are in force.
func (s *session) apply(ctx context.Context, step *servicetest.Step) error {
	old := s.marker
	var err error
	if s.marker, err = s.World.NewMarker(); err != nil {
		return err
	}
	err = s.Source.Put(ctx, State{
		Zone: s.c.Config.Zone, Services: step.Services, Slices: step.Slices, Marker: s.marker,
	})
	if err != nil {
		return fmt.Errorf("put objects: %w", err)
	}
	if s.proxy == nil {
		args := slices.Concat(s.Source.Args(), NodeArgs(s.c.Config, s.Source.HasNode()))
		if s.proxy, err = s.World.Start(ctx, s.Program, args...); err != nil {
			return err
		}
	}
	if err := s.World.Await(ctx, s.marker, s.proxy); err != nil {
		return err
	}
	if err := s.World.awaitQuiet(ctx, s.Program, s.marker); err != nil {
		return err
	}
	if old != nil {
		return old.Close()
	}
	return nil
}

func (s *session) lag() time.Duration { return cmp.Or(s.Lag, defaultLag) }

func (s *session) failed() {
	if !s.told && s.OnFailure != nil && s.proxy != nil {
		s.OnFailure(s.c, s.proxy)
	}
	s.told = true
}

func (s *session) close() error {
	var errs []error
	if s.proxy != nil {
		errs = append(errs, s.proxy.Stop(), s.proxy.Close())
	}
	if s.marker != nil {
		errs = append(errs, s.marker.Close())
	}
	return errors.Join(errs...)
}
