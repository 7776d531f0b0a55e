package certs

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The life of ticket keys. Clients keep tickets for seven days at most (RFC 8446,
// 4.6.1); ours are good for a day to a day and a half.
const (
	rotation = 12 * time.Hour
	kept     = 3 // keys that open tickets; the newest also makes them
)

// minSecret is the least entropy that keys are derived from.
const minSecret = 32

// Tickets makes the session-ticket keys of one trust domain and renews them. It is safe
// for concurrent use.
type Tickets struct {
	domain string

	mu      sync.Mutex
	secret  []byte     // nil: keys are random
	random  [][32]byte // newest first
	period  int64      // that random[0] is for
	configs []*tls.Config
}

// NewTickets returns the keys of a trust domain, the name of which need not be secret. The secret,
// if there is one, is at least 32 bytes, the same on every node: keys are derived from it
// and the date, so that every node opens every node's tickets. Without one
// they are random, and a session is known to this process only.
func NewTickets(domain string, secret []byte) (*Tickets, error) {
	t := &Tickets{domain: domain}
	if err := t.check(secret); err != nil {
		return nil, err
	}
	t.secret = slices.Clone(secret)
	return t, nil
}

func (t *Tickets) check(secret []byte) error {
	if len(secret) > 0 && len(secret) < minSecret {
		return fmt.Errorf("the secret for session tickets has %d bytes, less than %d", len(secret), minSecret)
	}
	return nil
}

// SetSecret replaces the secret; sessions made before are not resumed.
func (t *Tickets) SetSecret(secret []byte) error {
	if err := t.check(secret); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secret, t.random = slices.Clone(secret), nil
	return t.apply(time.Now())
}

// Attach gives config the keys, now and whenever they are renewed.
func (t *Tickets) Attach(config *tls.Config) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys, err := t.keys(time.Now())
	if err != nil {
		return err
	}
	config.SetSessionTicketKeys(keys)
	t.configs = append(t.configs, config)
	return nil
}

// Detach forgets config, which keeps the keys it has.
func (t *Tickets) Detach(config *tls.Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.configs = slices.DeleteFunc(t.configs, func(c *tls.Config) bool { return c == config })
}

// Run renews the keys until ctx is done, and returns nil then. If keys cannot be made
// it returns why, and those in use stay.
func (t *Tickets) Run(ctx context.Context) error {
	for {
		now := time.Now()
		timer := time.NewTimer(now.Truncate(rotation).Add(rotation).Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := t.Renew(time.Now()); err != nil {
			return err
		}
	}
}

// Renew gives the attached configurations the keys for the time now.
func (t *Tickets) Renew(now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.apply(now)
}

func (t *Tickets) apply(now time.Time) error {
	keys, err := t.keys(now)
	if err != nil {
		return err
	}
	for _, c := range t.configs {
		c.SetSessionTicketKeys(keys)
	}
	return nil
}

// keys returns the keys for now, the one that makes tickets first. Callers hold t.mu.
func (t *Tickets) keys(now time.Time) ([][32]byte, error) {
	period := now.Unix() / int64(rotation/time.Second)
	if len(t.secret) > 0 {
		return t.derived(period)
	}
	if len(t.random) == 0 || period != t.period {
		var key [32]byte
		if _, err := rand.Read(key[:]); err != nil {
			return nil, fmt.Errorf("make a session-ticket key: %w", err)
		}
		t.random = append([][32]byte{key}, t.random[:min(len(t.random), kept-1)]...)
		t.period = period
	}
	return t.random, nil
}

// derived returns the keys that the secret gives for the period: its own, those before, and
// last that of the next, which a node whose clock is ahead uses already.
func (t *Tickets) derived(period int64) ([][32]byte, error) {
	var keys [][32]byte
	for _, p := range [kept + 1]int64{period, period - 1, period - 2, period + 1} {
		k, err := hkdf.Key(sha256.New, t.secret, []byte("fairlead session tickets"), t.domain+"\x00"+strconv.FormatInt(p, 10), 32)
		if err != nil {
			return nil, fmt.Errorf("derive a session-ticket key: %w", err)
		}
		keys = append(keys, [32]byte(k))
	}
	return keys, nil
}
