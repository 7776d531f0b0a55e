package balance

import (
	"errors"
	"fmt"
	"time"
)

// An Algorithm is how a Balancer chooses.
type Algorithm uint8

// The algorithms. Weights count in all of them.
const (
	RoundRobin    Algorithm = iota // in turn, each as often as its weight says, spread out evenly
	LeastRequests                  // of two drawn at random the one with fewer requests in flight for its weight
	EWMA                           // of two drawn at random the one whose recent peak latency times its load is less
	Hash                           // by Pick.Key
	IPHash                         // by Pick.Client
)

// String returns the name as annotations have it, such as "least_requests".
func (a Algorithm) String() string {
	switch a {
	case RoundRobin:
		return "round_robin"
	case LeastRequests:
		return "least_requests"
	case EWMA:
		return "ewma"
	case Hash:
		return "hash"
	case IPHash:
		return "ip_hash"
	default:
		return fmt.Sprintf("Algorithm(%d)", uint8(a))
	}
}

// ParseAlgorithm is the inverse of String; false means that there is none of that name.
func ParseAlgorithm(name string) (Algorithm, bool) {
	for a := RoundRobin; a <= IPHash; a++ {
		if a.String() == name {
			return a, true
		}
	}
	return RoundRobin, false
}

// A Config is how one rule chooses endpoints. The zero value is round robin.
//
// Health is of the Pool, not of the rule: it is here because a rule's
// annotations say it. Where rules with one Pool differ, the caller settles whose counts
// and hands it to Pool.SetHealth; a Balancer does not look at it.
type Config struct {
	Algorithm Algorithm
	HashBy    string  // for Hash: the text with variables that makes Pick.Key; expanded by the caller
	Sticky    *Sticky // nil: no sessions. Wins over Algorithm once there is a session
	Health    Health
}

// Validate returns all that is wrong with c, by field.
func (c *Config) Validate() error {
	var errs []error
	if c.Algorithm > IPHash {
		errs = append(errs, fmt.Errorf("Algorithm: there is no %v", c.Algorithm))
	}
	if c.Algorithm == Hash && c.HashBy == "" {
		errs = append(errs, errors.New("HashBy: required by Algorithm hash"))
	}
	if c.Sticky != nil {
		errs = append(errs, c.Sticky.Validate())
	}
	return errors.Join(append(errs, c.Health.Validate())...)
}

// Health is how a Pool tells good endpoints from bad ones. The zero value
// ejects by the defaults of Passive, checks nothing and starts nothing slowly.
type Health struct {
	Passive   Passive
	Check     *Check        // nil: no active checks
	SlowStart time.Duration // over which an endpoint that comes or is back reaches its whole share; 0: at once
}

// Validate returns all that is wrong with h, by field.
func (h *Health) Validate() error {
	errs := []error{h.Passive.validate()}
	if h.Check != nil {
		errs = append(errs, h.Check.Validate())
	}
	if h.SlowStart < 0 {
		errs = append(errs, fmt.Errorf("SlowStart: %v is negative", h.SlowStart))
	}
	return errors.Join(errs...)
}

// equal reports whether h and o say the same.
func (h *Health) equal(o *Health) bool {
	same := h.Check == o.Check || h.Check != nil && o.Check != nil && *h.Check == *o.Check
	return same && h.Passive == o.Passive && h.SlowStart == o.SlowStart
}

// Passive says when an endpoint is ejected for what became of its requests. A
// failure is what the caller reports as Failed: no connection, no answer, or one
// of 502, 503 and 504.
//
// Without FailTimeout MaxFails failures in a row eject for Base times the number
// of ejections that came soon after each other, up to Max. With it the rule is
// nginx': MaxFails failures, successes between them or not, no further than FailTimeout
// apart from the first to the last, eject for FailTimeout.
type Passive struct {
	Off         bool          // nginx' max_fails=0
	MaxFails    int           // 0 means 5, or 1 with FailTimeout
	FailTimeout time.Duration // 0: ejections grow
	Base        time.Duration // 0 means 10 s
	Max         time.Duration // 0 means 300 s
	Percent     int           // of the endpoints that may be ejected at a time; 0 means 50. Of one endpoint none ever is
}

// filled returns p with its defaults in place.
func (p Passive) filled() Passive {
	set := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	if p.FailTimeout > 0 {
		set(&p.MaxFails, 1)
	}
	set(&p.MaxFails, 5)
	set(&p.Percent, 50)
	if p.Base == 0 {
		p.Base = 10 * time.Second
	}
	if p.Max == 0 {
		p.Max = max(300*time.Second, p.Base)
	}
	return p
}

func (p *Passive) validate() error {
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("Passive."+format, args...))
		}
	}
	wrong(p.MaxFails < 0, "MaxFails: %d is negative", p.MaxFails)
	wrong(p.FailTimeout < 0, "FailTimeout: %v is negative", p.FailTimeout)
	wrong(p.Base < 0, "Base: %v is negative", p.Base)
	wrong(p.Max < 0, "Max: %v is negative", p.Max)
	wrong(p.Percent < 0 || p.Percent > 100, "Percent: %d is not from 0 to 100", p.Percent)
	return errors.Join(errs...)
}
