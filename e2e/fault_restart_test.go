//go:build linux

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// bystanders is how many Services change around those that are watched.
const bystanders = 150

// watched are Services with other endpoints in every generation, all of which
// serve at any time.
func watched(generation int) []fixture {
	var out []fixture
	for i := 1; i <= 4; i++ {
		ms := []int{2, 3, 4, 5}
		gone := (generation + i) % len(ms)
		out = append(out, web(i, append(ms[:gone:gone], ms[gone+1:]...)...))
	}
	return out
}

func crowd(generation int) []fixture {
	return append(watched(generation), others(bystanders, generation)...)
}

// hammerWatched opens a connection to one of the watched Services every 5 ms.
func (b *bed) hammerWatched(t *testing.T) *prober {
	t.Helper()
	caller := b.place(t, pod(9))
	var targets []target
	targets = append(targets, both(b.Client, clusterIP(1), 80)...)
	targets = append(targets, both(caller, clusterIP(2), 80)...)
	targets = append(targets, both(b.N1.NS, clusterIP(3), 80)...)
	targets = append(targets, both(b.Client, netns.NodeAddr(1), 30004)...)
	return b.hammer(t, time.Duration(len(targets))*5*time.Millisecond, targets...)
}

// TestFaultKill kills fairlead again and again, most of the time while it is
// writing. Nobody who connects may notice, and in the end the kernel must be as
// if nothing had happened.
func TestFaultKill(t *testing.T) {
	eachVariant(t, func(t *testing.T, b *bed) {
		b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4), pod(5))
		b.begin(t, crowd(0)...)
		p := b.hammerWatched(t)
		const rounds = 12
		writing := 0
		for i := range rounds {
			if i%3 != 2 { // else killed while it starts
				b.await(t)
			}
			b.put(t, crowd(i+1)...)
			if i%3 != 2 {
				b.awaitTool(t)
			}
			late := 80 * time.Millisecond
			if i%3 == 0 {
				late = 2 * time.Millisecond // the tools have hardly begun
			}
			time.Sleep(rand.N(late))
			if restoring(b.proxy.Cmd.Process.Pid) {
				writing++
			}
			if err := b.proxy.Kill(); err != nil {
				t.Fatal(err)
			}
			b.start(t)
		}
		b.await(t)
		p.finish(t, 50)
		t.Logf("killed %d times, %d of them while a tool wrote the tables", rounds, writing)
		if writing == 0 && !b.direct() {
			t.Error("no kill was in the middle of anything")
		}
		b.wantAsFresh(t)
	})
}

// TestFaultRestart restarts fairlead in the ordinary way while everything is in
// use, and then has it take over what another set of Services has left.
func TestFaultRestart(t *testing.T) { eachVariant(t, faultRestart) }

func faultRestart(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4), pod(5))
	b.begin(t, crowd(0)...)
	p := b.hammerWatched(t)
	for i := range 4 {
		b.put(t, crowd(i+1)...)
		if i%2 == 0 {
			b.awaitTool(t)
		} else {
			b.await(t)
		}
		b.stop(t)
		b.start(t)
	}
	b.await(t)
	p.finish(t, 50)

	b.stop(t)
	before := b.save(t)
	later := web(7, 2, 3)
	b.put(t, later)
	if d := cmp.Diff(b.save(t), before, cmp.AllowUnexported(tables{})); d != "" {
		t.Errorf("the tables changed while nothing ran (-got +want):\n%s", d)
	}
	b.start(t)
	b.await(t)
	for _, x := range both(b.Client, clusterIP(7), 80) {
		if r := probe(t, x.from, x.dst); r.Class != netns.Reply {
			t.Errorf("the new Service: %v", r)
		}
	}
	for _, x := range both(b.Client, clusterIP(1), 80) {
		if r := probe(t, x.from, x.dst); r.Class == netns.Reply {
			t.Errorf("the old Service: %v", r)
		}
	}
	b.wantAsFresh(t)
}

// direct reports whether fairlead writes the rules of iptables itself.
func (b *bed) direct() bool {
	return strings.Contains(b.proxy.Output(), "rules are written without the tools")
}

// awaitTool waits until fairlead runs one of the iptables tools, which it does
// only when there is something to do; or in the IPVS modes, where it needs none,
// until the kernel has begun to change. What fairlead writes itself nobody sees
// begin: then it waits for about as long as that takes.
func (b *bed) awaitTool(t *testing.T) {
	t.Helper()
	if b.mode.IPVS() {
		b.awaitServers(t)
		return
	}
	if b.direct() {
		time.Sleep(rand.N(20 * time.Millisecond))
		return
	}
	pid := b.proxy.Cmd.Process.Pid
	for deadline := time.Now().Add(10 * time.Second); len(children(pid)) == 0; {
		if time.Now().After(deadline) {
			// On a busy machine it was over before we looked; else this fails.
			b.await(t)
			return
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// children returns the process ids of the children of a process.
func children(pid int) []string {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var out []string
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil {
			out = append(out, strings.Fields(string(text))...)
		}
	}
	return out
}

// restoring reports whether a process has iptables-restore write the tables.
func restoring(pid int) bool {
	for _, child := range children(pid) {
		if text, _ := os.ReadFile("/proc/" + child + "/cmdline"); strings.Contains(string(text), "-restore") {
			return true
		}
	}
	return false
}

// wantAsFresh wants the tables to be what fairlead writes when it starts with
// nothing there, and no rule of anybody else to have changed.
func (b *bed) wantAsFresh(t *testing.T) {
	t.Helper()
	if b.mode.IPVS() {
		b.awaitDrained(t)
	}
	got := b.save(t)
	b.stop(t)
	b.cleanup(t)
	if left := b.save(t).ours; strings.Contains(left, "FL-") {
		t.Errorf("left behind by cleanup:\n%s", left)
	}
	b.start(t)
	b.await(t)
	want := b.save(t)
	if d := cmp.Diff(got, want, cmp.AllowUnexported(tables{})); d != "" {
		t.Errorf("the tables differ from those of a fresh start (-got +want):\n%s", d)
	}
	if !strings.Contains(want.ours, "FL-") {
		t.Errorf("nothing to compare: %q", want.ours)
	}
}

// cleanup runs the subcommand.
func (b *bed) cleanup(t *testing.T) string {
	t.Helper()
	out, err := b.tool(t.Context(), "", b.program.Path, "cleanup")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// probe makes a new connection.
func probe(t *testing.T, from *netns.NS, at netip.AddrPort) netns.Result {
	t.Helper()
	return from.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: at, Timeout: 3 * time.Second})
}
