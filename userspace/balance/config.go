package balance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// MaxAttempts is the most that Config.Attempts can be.
const MaxAttempts = 8

// A Config holds for all Balancers of a node. The zero value is usable.
type Config struct {
	// Default is for Ports that ask for no algorithm, or one that is not built.
	// No algorithm means rr.
	Default service.Scheduling

	// Attempts is how many endpoints one connection may try. Zero means 4, as
	// many as kube-proxy's userspace mode had dial timeouts.
	Attempts int

	// MaxClients is how many clients a Port remembers for affinity. Zero means
	// 65536. One takes about 100 bytes.
	MaxClients int

	// Seed makes the order of endpoints differ from node to node. Zero keeps
	// the order of the pool.
	Seed uint64

	Outlier Outlier
}

// An Outlier says when endpoints that do not connect are left out. The zero
// value is on, with the defaults named below.
type Outlier struct {
	Off      bool
	Failures int           // in a row; zero means 5
	Base     time.Duration // the first time out, doubled each time; zero means 10 s
	Max      time.Duration // the longest time out; zero means 5 min
	Percent  int           // at most this part of a pool is left out, rounded down; zero means 50
}

func (c Config) filled() Config {
	set(&c.Default.Algorithm, "rr")
	set(&c.Attempts, 4)
	set(&c.MaxClients, 65536)
	set(&c.Outlier.Failures, 5)
	set(&c.Outlier.Base, 10*time.Second)
	set(&c.Outlier.Max, max(c.Outlier.Base, 5*time.Minute))
	set(&c.Outlier.Percent, 50)
	return c
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Validate returns all that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	a := c.Default.Algorithm
	wrong(a != "" && !slices.Contains(Algorithms(), a), "Default.Algorithm: %q is not one of %s", a, strings.Join(Algorithms(), ", "))
	for f := range strings.SplitSeq(c.Default.Flags, ",") {
		wrong(f != "" && !slices.Contains(service.SchedulerFlags(), f), "Default.Flags: %q is not one of %s",
			f, strings.Join(service.SchedulerFlags(), ", "))
	}
	wrong(c.Attempts < 0 || c.Attempts > MaxAttempts, "Attempts: %d is not from 0 to %d", c.Attempts, MaxAttempts)
	wrong(c.MaxClients < 0 || c.MaxClients > 1<<30, "MaxClients: %d is not from 0 to 2^30", c.MaxClients)
	o := c.Outlier
	wrong(o.Failures < 0, "Outlier.Failures: %d is negative", o.Failures)
	wrong(o.Base < 0, "Outlier.Base: %v is negative", o.Base)
	wrong(o.Max < 0, "Outlier.Max: %v is negative", o.Max)
	wrong(o.Max > 0 && o.Max < c.filled().Outlier.Base, "Outlier.Max: %v is less than Outlier.Base, %v", o.Max, c.filled().Outlier.Base)
	wrong(o.Percent < 0 || o.Percent > 100, "Outlier.Percent: %d is not from 0 to 100", o.Percent)
	return errors.Join(errs...)
}

// Algorithms returns the algorithms that are built, sorted.
func Algorithms() []string {
	return []string{"dh", "fo", "lc", "mh", "nq", "ovf", "rr", "sed", "sh", "wlc", "wrr"}
}

// Effective returns what is used when asked is wanted: def, or rr, if asked names
// nothing or what is not built. Flags without an algorithm are for the default
// one; flags of an algorithm that is not built are lost.
func Effective(asked, def service.Scheduling) service.Scheduling {
	set(&def.Algorithm, "rr")
	switch {
	case asked.Algorithm == "" && asked.Flags != "":
		def.Flags = asked.Flags
		return def
	case !slices.Contains(Algorithms(), asked.Algorithm):
		return def
	case asked.Flags == "" && asked.Algorithm == def.Algorithm:
		return def
	}
	return asked
}

// An algorithm is a name of Algorithms, parsed, with what its flags say.
type algorithm struct {
	kind     kind
	withPort bool // hash the client's port too
}

type kind uint8

const (
	rr kind = iota
	wrr
	lc
	wlc
	sed
	nq
	fo
	ovf
	hashClient
	hashFrontend
)

func parse(s service.Scheduling) algorithm {
	has := func(names ...string) bool {
		return slices.ContainsFunc(strings.Split(s.Flags, ","), func(f string) bool { return slices.Contains(names, f) })
	}
	switch s.Algorithm {
	case "sh":
		return algorithm{hashClient, has("sh-port", "flag-2")}
	case "mh":
		// kube-proxy's mh has always hashed the port, and so has our IPVS mode.
		return algorithm{hashClient, s.Flags == "" || has("mh-port", "flag-2")}
	case "dh":
		return algorithm{kind: hashFrontend}
	}
	kinds := map[string]kind{"wrr": wrr, "lc": lc, "wlc": wlc, "sed": sed, "nq": nq, "fo": fo, "ovf": ovf}
	return algorithm{kind: kinds[s.Algorithm]}
}
