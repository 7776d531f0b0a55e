//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// TestUserspaceRollingUpdate updates fairlead in userspace mode as a DaemonSet with a
// surge does: the new process starts while the old one runs, and takes over what it has
// open. Nothing that is open may end or lose a byte, and nobody who connects may notice.
func TestUserspaceRollingUpdate(t *testing.T) {
	t.Parallel()
	userspaceRolling(t, newBedIn(t, world.Userspace, variants()[0], "--shutdown-grace=10s"))
}

func userspaceRolling(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4))
	b.serve(t, netns.UDP, 5353, pod(2))
	b.begin(t, web(1, 2, 3, 4))
	half := b.halfClosed(t) // as clusterIP(2)
	names := dns(5353, podsOf(2)...)
	names.nodePort = 30053
	all := []fixture{web(1, 2, 3, 4), {name: "half", ip: clusterIP(2), port: 80, target: 9090, endpoints: podsOf(5)}, names}
	orders := [][2]string{{"say, hear", "hear, say"}, {"hear, say", "say, hear"}, {"at once", "at once"}}
	for i := range orders {
		all = append(all, fixture{name: "bulk-" + strconv.Itoa(i), ip: clusterIP(4 + i), port: 80, target: uint16(9001 + i), endpoints: podsOf(2)})
	}
	b.apply(t, all...)

	p := b.hammer(t, 100*time.Millisecond, slices.Concat(
		both(b.Client, netns.NodeAddr(1), 30001), both(b.place(t, pod(9)), clusterIP(1), 80), both(b.N1.NS, clusterIP(1), 80))...)
	idle := b.dialAll(t, 10)
	var talkers []*talker // who wait: an answer may be late, while everything is handed over, but it comes
	for i, ip := range clusterIP(10).Slice() {
		talkers = append(talkers,
			talkWith(t, "host", b.N1.NS, netip.AddrPortFrom(ip, 53), patience),
			talkWith(t, "client", b.Client, netip.AddrPortFrom(netns.NodeAddr(1).Slice()[i], 30053), patience))
	}
	b.talking(t, talkers, 0)
	marks := make([]int, len(talkers))
	for i, k := range talkers {
		marks[i] = k.mark()
	}
	moved := b.converseUntil(t, orders)
	for round := range 3 {
		old := b.proxy
		b.start(t)
		b.await(t)
		b.says(t, "took over from the process before")
		if err := old.Stop(); err != nil {
			t.Errorf("round %d: the old process: %v", round, err)
		}
		for _, line := range []string{"another process has taken over", "left=0"} {
			if !strings.Contains(old.Output(), line) {
				t.Errorf("round %d: the old process does not say %q:\n%s", round, line, old.Tail(5))
			}
		}
		for i, c := range idle {
			if r := c.Exchange(t.Context(), fmt.Sprint("round ", round)); r.Class != netns.Reply {
				t.Errorf("round %d: connection %d: %v", round, i, r)
			}
		}
		b.put(t, append(all, web(20+round, 2))...)
		b.await(t)
	}
	for _, h := range half {
		h.finish(t)
	}
	n, err := moved()
	t.Logf("%d conversations of %d MiB each way", n, bulk>>20)
	if err != nil {
		t.Error(err)
	}
	if n < len(orders) {
		t.Errorf("only %d conversations came to their end", n)
	}
	for i, k := range talkers {
		oneSession(t, k, marks[i])
	}
	p.finish(t, 100)
}

// converseUntil has conversations over Services bulk-0 and so on, one after the other in
// each, until the function that it returns is called, which says how many there were.
func (b *bed) converseUntil(t *testing.T, orders [][2]string) func() (int, error) {
	t.Helper()
	server := b.place(t, pod(2))
	var wg sync.WaitGroup
	over := make(chan struct{})
	stop := sync.OnceFunc(func() { close(over); wg.Wait() })
	t.Cleanup(stop)
	counts, errs := make([]int, len(orders)), make([]error, len(orders))
	for i, order := range orders {
		at := i % 2 // of the families
		l, err := server.Listen(netip.AddrPortFrom(pod(2).Slice()[at], uint16(9001+i)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		x := target{b.Client, netip.AddrPortFrom(clusterIP(4 + i).Slice()[at], 80)}
		wg.Go(func() {
			for errs[i] == nil {
				if err := converse(x, l, order); err != nil {
					errs[i] = fmt.Errorf("conversation %d with %v, client %q: %w", counts[i], x.dst, order[0], err)
				}
				counts[i]++
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	return func() (n int, err error) {
		stop()
		for i := range orders {
			n += counts[i]
			if err == nil {
				err = errs[i]
			}
		}
		return n, err
	}
}

// oneSession wants all exchanges of a talker since a mark to be answered, and the
// endpoint to have seen one and the same socket all the time.
func oneSession(t *testing.T, k *talker, mark int) {
	t.Helper()
	var seen netip.AddrPort
	lost := 0
	all := k.since(mark)
	for _, r := range all {
		switch {
		case r.Class != netns.Reply:
			lost++
		case !seen.IsValid():
			seen = r.SeenSource
		case r.SeenSource != seen:
			t.Errorf("%s: the endpoint sees %v after %v: another session", k.name, r.SeenSource, seen)
			return
		}
	}
	if lost > 0 || len(all) < 10 {
		t.Errorf("%s: %d of %d datagrams were not answered", k.name, lost, len(all))
	}
}
