package control

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// Defaults of a Config.
const (
	DefaultSyncPeriod = 30 * time.Second // as kube-proxy's
	DefaultDutyCycle  = 0.01
	DefaultBurst      = 100 * time.Millisecond
	DefaultMaxDelay   = 10 * time.Second
	DefaultCoalesce   = time.Millisecond
)

// Config is what a Loop needs. Zero means the default for every number.
type Config struct {
	Log *slog.Logger // required

	// SyncPeriod is the time between audits and the longest pause after an error.
	SyncPeriod time.Duration
	// DutyCycle is the share of the time to spend syncing at most, above 0 and up
	// to 1, but for a Burst. The pause after a sync grows with the time it took.
	DutyCycle float64
	// Burst is how much time may be spent syncing, after a calm, before any sync has
	// to wait: changes that come one by one, or a few at a time, are in force at once.
	Burst time.Duration
	// MaxDelay is the longest such pause, whatever the last sync took.
	MaxDelay time.Duration
	// MinSyncPeriod is kube-proxy's setting of this name. There every sync waits
	// this long after the one before, and for its end; here no pause is longer than
	// this and eight times the last sync, nor than two and a half times this, so that
	// no change is later than with kube-proxy; and not longer than this when many wait. Zero means not given.
	MinSyncPeriod time.Duration
	// Coalesce is how long a sync waits for more after the first change.
	Coalesce time.Duration

	// Families label the metrics; none means both.
	Families []service.Family

	Health      *Health      // nil: nobody asks
	Metrics     *Metrics     // nil: nobody reads them
	HealthPorts *HealthPorts // nil: health-check node ports are not served

	// Problems is told what an operator should hear about, each Problem once
	// until it has gone away. It must not block. Nil means only the log.
	Problems func([]service.Problem)
	// Stale is given what the sync just done has orphaned. It must not block.
	// Nil means that connection tracking is left alone.
	Stale func(*service.Stale)
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Log == nil {
		errs = append(errs, errors.New("log: required"))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"syncPeriod", c.SyncPeriod}, {"maxDelay", c.MaxDelay},
		{"minSyncPeriod", c.MinSyncPeriod}, {"coalesce", c.Coalesce}, {"burst", c.Burst},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("%s: must not be negative, is %s", d.name, d.value))
		}
	}
	if !(c.DutyCycle >= 0 && c.DutyCycle <= 1) { // not the other way round: NaN
		errs = append(errs, fmt.Errorf("dutyCycle: must be between 0 and 1, is %g", c.DutyCycle))
	}
	return errors.Join(errs...)
}

// withDefaults returns c with defaults in the place of zeros.
func (c Config) withDefaults() Config {
	c.SyncPeriod = cmp.Or(c.SyncPeriod, DefaultSyncPeriod)
	c.DutyCycle = cmp.Or(c.DutyCycle, DefaultDutyCycle)
	c.Burst = cmp.Or(c.Burst, DefaultBurst)
	c.MaxDelay = cmp.Or(c.MaxDelay, DefaultMaxDelay)
	c.Coalesce = cmp.Or(c.Coalesce, DefaultCoalesce)
	if len(c.Families) == 0 {
		c.Families = bothFamilies()
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil, "")
	}
	if c.Health == nil {
		c.Health = NewHealth(2*c.SyncPeriod, c.Families)
	}
	return c
}

func bothFamilies() []service.Family { return []service.Family{service.IPv4, service.IPv6} }
