//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"time"
)

// mode is what both proxies are told with --proxy-mode, or modeUserspace or modeL7.
type mode string

const (
	modeIptables mode = "iptables"
	modeIPVS     mode = "ipvs"
)

// defaults are the flags whose default is another one with -quick or in a mode.
// Numbers of Services and times are those at which the slower of the two proxies
// comes to an end.
func (m mode) defaults(quick bool) map[string]string {
	d := map[string]string{}
	if m == modeIPVS {
		d = map[string]string{
			"n": "1000,10000", "variants": "legacy", "endpoints": "10", "flips": "5", "churn": "10s",
			"cold-timeout": "150s", "flip-timeout": "2m",
		}
	}
	if m == modeSuite {
		d = map[string]string{
			"n": "10000,1000,100,5000,30000", "variants": "legacy,nft,nftables,userspace", "flips": "5", "churn": "8s",
			"idle": "45s", "cold-timeout": "100s", "connects": "1500",
		}
	}
	if m == modeUserspace {
		d["rounds"], d["variants"] = "3", "nft"
	}
	if m == modeL7 {
		d["rounds"], d["load"] = "4", "3s"
	}
	if quick {
		d["rounds"], d["flips"], d["churn"], d["idle"], d["connects"] = "1", "4", "6s", "2s", "500"
	}
	if quick && m == modeIPVS {
		d["n"], d["flips"], d["churn"] = "100", "2", "0s"
	}
	if quick && m == modeSuite {
		d["n"], d["flips"], d["churn"], d["idle"], d["connects"] = "100", "3", "3s", "2s", "300"
	}
	if quick && m == modeUserspace {
		d["load"] = "300ms"
	}
	if quick && m == modeL7 {
		d["load"] = "1s"
	}
	return d
}

// apply sets the flags that were not given.
func apply(flags *flag.FlagSet, defaults map[string]string) error {
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var errs []error
	for name, value := range defaults {
		if !given[name] {
			errs = append(errs, flags.Set(name, value))
		}
	}
	return errors.Join(errs...)
}

func (o options) validateMode() error {
	var errs []error
	switch o.mode {
	case modeIptables:
	case modeUserspace, modeL7, modeSuite:
		return nil
	case modeIPVS:
		if o.churn == 0 {
			return errors.Join(errs...)
		}
	default:
		errs = append(errs, fmt.Errorf("-mode: %q is none of suite, iptables, ipvs, userspace and l7", o.mode))
	}
	if o.churn < churnProbe {
		errs = append(errs, fmt.Errorf("-churn must be at least %v", churnProbe))
	}
	return errors.Join(errs...)
}

// pace is how fast a trial goes about. Where system calls are slow, as in
// user-mode Linux, probes at the pace of iptables would take the CPU from the
// proxy, which there is but one of.
type pace struct {
	coldTick time.Duration // between two looks at a Service during start-up
	flipTick time.Duration // between two looks at the Service of a change
}

func (m mode) pace() pace {
	if m == modeIPVS {
		return pace{coldTick: 20 * time.Millisecond, flipTick: 2 * time.Millisecond}
	}
	return pace{coldTick: 5 * time.Millisecond, flipTick: time.Millisecond}
}
