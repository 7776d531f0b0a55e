package policy

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A limiter is the compiled Limits of one rule. Limits of concurrent requests come first, then all rates together.
type limiter struct {
	table  *limitTable
	rule   uint64
	most   int // concurrent requests; 0 means no limit
	rates  []rate
	exempt *prefixSet
	status int
}

func (b *builder) limits() error {
	c := b.config
	if len(c.Limits) == 0 {
		return nil
	}
	if err := b.shared("limits"); err != nil {
		return err
	}
	if b.env.Rule == "" {
		return errors.New("limits: Env.Rule is missing")
	}
	table := b.env.Shared.limits
	s := &limiter{table: table, rule: table.rule(b.env.Rule), exempt: newPrefixSet(c.Limiting.Exempt), status: c.Limiting.Status}
	if s.status < 400 || s.status > 599 {
		s.status = 429
	}
	for _, l := range c.Limits {
		switch {
		case l.Connections > 0:
			if s.most == 0 || l.Connections < s.most {
				s.most = l.Connections
			}
		case l.Requests > 0 && l.Per > 0 && l.Burst >= 0 && len(s.rates) < maxRates:
			s.rates = append(s.rates, newRate(l.Requests, l.Per, l.Burst))
		default:
			return fmt.Errorf("limits: %+v: neither concurrent requests nor one of at most %d rates", l, maxRates)
		}
	}
	b.stage(s)
	b.pipeline.counts = b.pipeline.counts || s.most > 0
	return nil
}

// Admit counts x, or refuses it and says when to come again.
func (l *limiter) Admit(x *exchange.Exchange) bool {
	addr := client(x)
	if l.exempt.contains(addr) {
		return true
	}
	k := limitKey{rule: l.rule, client: account(addr)}
	if l.most > 0 {
		if !l.table.enter(k, l.most) {
			l.refuse(x, ReasonConnLimit, time.Second)
			return false
		}
		s := needState(x)
		s.release = append(s.release, release{table: l.table, key: k})
	}
	if len(l.rates) == 0 {
		return true
	}
	wait, ok := l.table.take(k, l.rates)
	if !ok {
		l.refuse(x, ReasonRateLimit, wait)
	}
	return ok
}

func (l *limiter) refuse(x *exchange.Exchange, reason string, wait time.Duration) {
	seconds := max(int64((wait+time.Second-1)/time.Second), 1)
	x.Answer(l.status, reason).Header.Set("Retry-After", strconv.FormatInt(seconds, 10))
}
