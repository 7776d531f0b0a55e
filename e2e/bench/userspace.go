//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
)

// modeUserspace compares data paths: fairlead's userspace mode with HAProxy, and
// with fairlead's own iptables mode.
const modeUserspace mode = "userspace"

// userspaceOptions are the flags of that mode.
type userspaceOptions struct {
	load           time.Duration // of each load
	limitUserspace time.Duration
	haproxy        string // name or path
	soak           time.Duration
	soakRate       int // connections per second
	loads          []load.Kind
	before         string // path of another fairlead
}

func (o *userspaceOptions) defineUserspace(flags *flag.FlagSet) {
	flags.DurationVar(&o.load, "load", 1800*time.Millisecond, "time of each load, with -mode userspace and l7")
	flags.DurationVar(&o.limitUserspace, "limit", 330*time.Second, "time after which no round begins, with -mode userspace and l7")
	flags.StringVar(&o.haproxy, "haproxy", "haproxy", "name or path of HAProxy, for -mode userspace and l7")
	flags.DurationVar(&o.soak, "soak", 0, "with -mode userspace, instead of comparing: put a moderate load on fairlead for so long, and see whether anything of it grows")
	o.loads = pathLoads()
	flags.Func("loads", "some of ping, connect and bulk, with -mode userspace (default all)", func(text string) (err error) {
		o.loads, err = parseLoads(text)
		return err
	})
	flags.StringVar(&o.before, "before", "", "path of another fairlead that takes part in the mode userspace, to see what a change has done")
	flags.IntVar(&o.soakRate, "soak-rate", 100, "connections per second of -soak")
}

// pathLoads are all there are.
func pathLoads() []load.Kind { return []load.Kind{load.Ping, load.Connect, load.Bulk} }

func parseLoads(text string) (list []load.Kind, err error) {
	for name := range strings.SplitSeq(text, ",") {
		i := slices.IndexFunc(pathLoads(), func(k load.Kind) bool { return k.String() == name })
		if i < 0 {
			return nil, fmt.Errorf("%q is none of ping, connect and bulk", name)
		}
		list = append(list, pathLoads()[i])
	}
	return list, nil
}

func (o options) validateUserspace() error {
	var errs []error
	if o.mode != modeUserspace {
		if o.soak != 0 {
			errs = append(errs, errors.New("-soak is for -mode userspace"))
		}
		return errors.Join(errs...)
	}
	if o.load < 100*time.Millisecond {
		errs = append(errs, errors.New("-load must be at least 100ms"))
	}
	if o.soak != 0 && o.soak < minSoak {
		errs = append(errs, fmt.Errorf("-soak must be at least %v", minSoak))
	}
	if o.soakRate < 2 {
		errs = append(errs, errors.New("-soak-rate must be at least 2"))
	}
	if o.kernel != kernelAuto && o.kernel != kernelHost {
		errs = append(errs, errors.New("-kernel: -mode userspace runs on the host"))
	}
	return errors.Join(errs...)
}

func runUserspace(ctx context.Context, o options, log *slog.Logger) error {
	if o.soak > 0 {
		return runSoak(ctx, o, log)
	}
	return runContest(ctx, o, log)
}
