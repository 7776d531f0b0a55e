//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// A talker is a UDP client that keeps its socket and sends without end, so that
// its flow never leaves the connection-tracking table by itself.
type talker struct {
	name string
	dst  netip.AddrPort
	s    *netns.Session

	mu   sync.Mutex
	seen []netns.Result
}

// talk starts a talker, who waits for an answer as long as it may take on a busy
// machine.
func talk(t *testing.T, name string, from *netns.NS, dst netip.AddrPort) *talker {
	t.Helper()
	return talkWith(t, name, from, dst, time.Second)
}

// talkWith starts a talker with some patience.
func talkWith(t *testing.T, name string, from *netns.NS, dst netip.AddrPort, patience time.Duration) *talker {
	t.Helper()
	s, err := from.OpenSession(netns.Request{Proto: netns.UDP, Dst: dst, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	k := &talker{name: fmt.Sprintf("%s to %v", name, dst), dst: dst, s: s}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { k.run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
		s.Close()
	})
	return k
}

func (k *talker) run(ctx context.Context) {
	for ctx.Err() == nil {
		r := k.s.Exchange(ctx)
		k.mu.Lock()
		k.seen = append(k.seen, r)
		k.mu.Unlock()
		time.Sleep(20 * time.Millisecond) // the rate, not a wait for something
	}
}

// mark is how many exchanges there have been.
func (k *talker) mark() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.seen)
}

// since returns the exchanges after a mark.
func (k *talker) since(mark int) []netns.Result {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]netns.Result(nil), k.seen[mark:]...)
}

// settled is how many exchanges in a row must be as wanted.
const settled = 5

// settle returns nil if the last exchanges after a mark satisfy ok.
func (k *talker) settle(mark int, ok func(netns.Result) error) error {
	all := k.since(mark)
	if len(all) < settled {
		return fmt.Errorf("%s: only %d exchanges", k.name, len(all))
	}
	for _, r := range all[len(all)-settled:] {
		if err := ok(r); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return nil
}

// answeredBy wants answers of a pod's port, in the family of the answer.
func answeredBy(p netns.Dual, port uint16) func(netns.Result) error {
	return func(r netns.Result) error {
		if r.Class != netns.Reply || r.From.Addr != netip.AddrPortFrom(p.Like(r.From.Addr.Addr()), port) {
			return fmt.Errorf("got %v, want an answer of %v port %d", r, p, port)
		}
		return nil
	}
}

// answeredByNoPod wants anything but an answer of a pod.
func answeredByNoPod(r netns.Result) error {
	a := r.From.Addr.Addr()
	if r.Class == netns.Reply && (netns.PodCIDR(1).V4.Contains(a) || netns.PodCIDR(1).V6.Contains(a)) {
		return fmt.Errorf("got %v, want no answer of a pod", r)
	}
	return nil
}

// refused wants an ICMP error.
func refused(r netns.Result) error {
	if r.Class != netns.Refused {
		return fmt.Errorf("got %v, want it refused", r)
	}
	return nil
}

// unchanged returns an error if a flow that has been going on has got another
// source address, as the other side sees it.
func (k *talker) unchanged() error {
	all := k.since(0)
	var first netip.AddrPort
	for i, r := range all {
		switch {
		case r.Class != netns.Reply:
			return fmt.Errorf("%s: exchange %d: %v", k.name, i, r)
		case !first.IsValid():
			first = r.SeenSource
		case r.SeenSource != first:
			return fmt.Errorf("%s: exchange %d: seen as %v, before as %v", k.name, i, r.SeenSource, first)
		}
	}
	if !first.IsValid() {
		return errors.New(k.name + ": no exchanges")
	}
	return nil
}
