//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// open opens a connection of every caller to a Service.
func (b *bed) open(t *testing.T, f fixture) []*netns.Conn {
	t.Helper()
	var out []*netns.Conn
	for _, x := range b.callers(t, f) {
		c, r := x.from.Dial(t.Context(), netns.Request{Dst: x.dst, Timeout: 20 * time.Second})
		if c == nil {
			t.Fatalf("%s from %s at %v: %v", f.name, x.from.Name(), x.dst, r)
		}
		t.Cleanup(func() { c.Close() })
		out = append(out, c)
	}
	return out
}

// allAre wants an exchange on every connection to end in one way.
func allAre(t *testing.T, conns []*netns.Conn, want netns.Class) error {
	t.Helper()
	var errs []error
	for i, c := range conns {
		if r := c.Exchange(t.Context(), "hello"); r.Class != want {
			errs = append(errs, fmt.Errorf("connection %d: got %v, want %v", i, r, want))
		}
	}
	return errors.Join(errs...)
}

// TestUserspaceDeparted has the pod of a connection go. One that was deleted will
// never answer, so its connections are cut; one that merely left the Service keeps
// them, and so does one whose Service is deleted.
func TestUserspaceDeparted(t *testing.T) { eachUserspace(t, departed) }

func departed(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4))
	deleted, left, unserved := web(1, 2), web(2, 3), web(3, 3)
	b.begin(t, deleted, left, unserved)
	doomed, kept, orphans := b.open(t, deleted), b.open(t, left), b.open(t, unserved)
	alive := func(when string) {
		t.Helper()
		if err := errors.Join(allAre(t, kept, netns.Reply), allAre(t, orphans, netns.Reply)); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	deleted.endpoints = []endpoint{{pod(2), true}, {pod: pod(4)}}
	left.endpoints, unserved.endpoints = podsOf(4), podsOf()
	b.apply(t, deleted, left, unserved)
	for i, r := range callAll(t, 1, b.callers(t, unserved)) {
		if r.Class != netns.Refused {
			t.Errorf("call %d to what has no endpoints: got %v, want it refused", i, r)
		}
	}
	time.Sleep(4 * time.Second) // nothing may happen in this time
	alive("while a pod terminates")
	if err := allAre(t, doomed, netns.Reply); err != nil {
		t.Errorf("while it terminates: %v", err)
	}
	for i, r := range callAll(t, 1, b.callers(t, deleted)) {
		if err := answeredBy(pod(4), 8080)(r); err != nil {
			t.Errorf("new connection %d while a pod terminates: %v", i, err)
		}
	}
	before := b.metric(t, "fairlead_userspace_aborted_total")
	deleted.endpoints = podsOf(4)
	b.apply(t, deleted, left, unserved)
	took := within(t, 20*time.Second, func() error { return allAre(t, doomed, netns.Closed) })
	t.Logf("cut %v after the pod was gone", took.Round(10*time.Millisecond))
	if n := b.metric(t, "fairlead_userspace_aborted_total") - before; n != float64(len(doomed)) {
		t.Errorf("%v connections were cut, want %d", n, len(doomed))
	}
	alive("when another pod is gone")

	b.apply(t)
	for i, r := range callAll(t, 1, b.callers(t, left)) {
		if r.Class == netns.Reply && b.isPod(r) {
			t.Errorf("call %d to a Service that is deleted: %v", i, r)
		}
	}
	time.Sleep(4 * time.Second) // again, longer than the grace of those that are cut
	alive("when the Services are deleted")
	for i, c := range append(kept, orphans...) {
		if r := c.Finish(t.Context()); r.Class != netns.Reply {
			t.Errorf("the end of connection %d, after all: %v", i, r)
		}
	}
	within(t, 20*time.Second, func() error {
		if n := b.metric(t, connections); n != 0 {
			return fmt.Errorf("%v connections are left, want none", n)
		}
		return nil
	})
}

const connections = "fairlead_userspace_connections"

// isPod reports whether an answer came from a pod of n1.
func (b *bed) isPod(r netns.Result) bool {
	a := r.From.Addr.Addr()
	return netns.PodCIDR(1).V4.Contains(a) || netns.PodCIDR(1).V6.Contains(a)
}
