//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// userspaceInjuries are what somebody else does to what fairlead has in the kernel
// in userspace mode.
func userspaceInjuries() []injury {
	run := func(commands ...string) func(*testing.T, *bed) {
		return func(t *testing.T, b *bed) {
			t.Helper()
			for _, c := range commands {
				b.run(t, c)
			}
		}
	}
	ipt := func(args string) func(*testing.T, *bed) {
		return func(t *testing.T, b *bed) { b.ipt(t, strings.Fields(args)...) }
	}
	vip := clusterIP(1).V4.String() + ",tcp:80"
	return []injury{
		{name: "delete an element", broken: true, do: run("ipset del FLU4-VIP " + vip)},
		{name: "refuse a Service", broken: true, do: run("ipset del FLU4-VIP "+vip, "ipset add FLU4-REFUSE "+vip)},
		{name: "drop a Service", broken: true, do: run("ipset add FLU4-DROP " + vip)},
		{name: "add an element", do: run("ipset add FLU6-VIP fd00:10:96::eeee,tcp:80")},
		{name: "limit a Service", broken: true, do: run("ipset add FLU4-FW " + vip)},
		{name: "flush a set", broken: true, do: run("ipset flush FLU4-VIP", "ipset flush FLU6-VIP")},
		{name: "flush every set", broken: true, do: eachSet("flush")},
		{name: "destroy every set", broken: true, do: destroySets},
		{name: "flush mangle", broken: true, do: ipt("-t mangle -F")},
		{name: "flush and delete everything", broken: true, do: wipe("*mangle\n-F\n-X\nCOMMIT\n*filter\n-F\n-X\nCOMMIT\n")},
		{name: "empty a chain", broken: true, do: ipt("-t mangle -F FL-PREROUTING")},
		{name: "remove a rule", do: ipt("-t mangle -D FL-OUTSIDE 2")},
		{name: "remove a jump", broken: true, do: ipt("-t mangle -D PREROUTING -m comment --comment fairlead -j FL-PREROUTING")},
		{name: "get in first", broken: true, do: ipt("-t mangle -I FL-PREROUTING -j RETURN")},
		{name: "flush filter", do: ipt("-F")},
		{name: "delete the routing rule", broken: true, told: true, do: run("ip rule del lookup 17997")},
		{name: "delete the routing rule of IPv6", told: true, do: run("ip -6 rule del lookup 17997")},
		{name: "add another rule for our table", told: true, do: run("ip rule add pref 80 fwmark 0x2/0x2 lookup 17997")},
		{name: "flush the routing table", broken: true, told: true, do: run("ip route flush table 17997")},
		{name: "flush the routing table of IPv6", told: true, do: run("ip -6 route flush table 17997")},
		{name: "replace the route", broken: true, told: true, do: run("ip route replace blackhole default table 17997")},
	}
}

// aliens are what somebody else has that is like what fairlead has: they must last.
func (b *bed) aliens(t *testing.T) {
	t.Helper()
	b.foreignRules(t)
	b.ipt(t, "-t", "mangle", "-A", "OUTPUT", "-p", "253", "-j", "MARK", "--set-mark", "0x1")
	for _, c := range []string{
		"ipset create OTHER hash:ip", "ipset add OTHER 192.0.2.60",
		"ipset create FLU4 hash:ip,port", "ipset add FLU4 192.0.2.61,tcp:80", // as FLU4-VIP, nearly
		"ipset create FLOOD hash:ip,port family inet6",
		"ip rule add pref 95 fwmark 0x1/0x1 lookup 100", "ip route add local 192.0.2.70 dev lo table 100",
		"ip -6 rule add pref 95 fwmark 0x1/0x1 lookup 100", "ip -6 route add local 2001:db8::70 dev lo table 100",
		"ip rule add pref 89 fwmark 0x2/0x2 lookup 17998", "ip route add local 192.0.2.71 dev lo table 17998",
	} {
		b.run(t, c)
	}
}

// alienRoutes are routes of others, which [bed.save] leaves out.
func (b *bed) alienRoutes(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, family := range []string{"-4", "-6"} {
		for _, table := range []string{"main", "100", "17998"} {
			for _, line := range sortLines(b.table(t, family, table)) {
				// How long a route of the kernel's own lasts.
				line, _, _ = strings.Cut(strings.TrimSpace(line), " expires ")
				fmt.Fprintln(&out, family, table, line)
			}
		}
	}
	return out.String()
}

// TestUserspaceFlush damages what fairlead has in the kernel behind its back.
func TestUserspaceFlush(t *testing.T) {
	eachUserspace(t, func(t *testing.T, b *bed) { b.injureUserspace(t, userspaceInjuries(), repairLimit) },
		"--iptables-sync-period=2s")
}

// TestUserspaceTold does the same as far as the kernel tells of it: the repair does
// not wait for the end of a period.
func TestUserspaceTold(t *testing.T) {
	told := slices.DeleteFunc(userspaceInjuries(), func(i injury) bool { return !i.told })
	// The periods are ten minutes. A busy machine may stand still for a while.
	eachUserspace(t, func(t *testing.T, b *bed) { b.injureUserspace(t, told, 10*time.Second) },
		"--iptables-sync-period=10m")
}

// injureUserspace does one thing after the other, and wants each to be repaired in
// time, and connections that were open before to have outlived it.
func (b *bed) injureUserspace(t *testing.T, list []injury, limit time.Duration) {
	t.Helper()
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	b.begin(t, web(1, 2, 3), web(2, 2), web(3))
	b.aliens(t)
	want := b.save(t)
	conns := b.open(t, web(1))
	for _, in := range list {
		if in.told {
			// What comes within a quarter of a second after a repair of this kind
			// is taken for its echo, and waits for the end of the period.
			time.Sleep(time.Second)
		}
		before := len(b.repairs())
		in.do(t, b)
		done := time.Now()
		if in.broken {
			b.wantBroken(t, in, before)
		}
		foreign, routes := b.save(t).foreign, b.alienRoutes(t)
		b.awaitRepair(t, in, want)
		took := time.Since(done)
		if all := b.repairs(); len(all) > before {
			took = all[len(all)-1].Sub(done)
		}
		t.Logf("%s: repaired after %v", in.name, max(0, took.Round(time.Millisecond)))
		if took > limit {
			t.Errorf("%s: repaired after %v, want it within %v", in.name, took, limit)
		}
		for _, x := range append(both(b.Client, clusterIP(1), 80), both(b.N1.NS, clusterIP(2), 80)...) {
			if r := x.from.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: 10 * time.Second}); !b.isPod(r) {
				t.Errorf("%s: after the repair: %v: %v", in.name, x.dst, r)
			}
		}
		for _, x := range both(b.Client, clusterIP(3), 80) {
			if r := probe(t, x.from, x.dst); r.Class != netns.Refused {
				t.Errorf("%s: after the repair: what has no endpoints, %v: got %v, want it refused", in.name, x.dst, r)
			}
		}
		if err := allAre(t, conns, netns.Reply); err != nil {
			t.Errorf("%s: of the connections from before: %v", in.name, err)
		}
		if diff := cmp.Diff(b.save(t).foreign+b.alienRoutes(t), foreign+routes); diff != "" {
			t.Errorf("%s: the repair touched what is not ours (-got +want):\n%s", in.name, diff)
		}
	}
}

// TestUserspaceInUse wants nobody to be able to destroy a set, since rules refer to
// it, and fairlead not to mind the attempt.
func TestUserspaceInUse(t *testing.T) {
	eachUserspace(t, func(t *testing.T, b *bed) {
		b.serve(t, netns.TCP, 8080, pod(2))
		b.begin(t, web(1, 2))
		want := b.save(t)
		sets := b.ourSets(t)
		if len(sets) < 10 {
			t.Errorf("only the sets %v, want some in both families", sets)
		}
		for _, name := range sets {
			if out, err := b.tool(t.Context(), "", "ipset", "destroy", name); err == nil {
				t.Errorf("%s could be destroyed: %s", name, out)
			}
		}
		if d := cmp.Diff(b.save(t), want, cmp.AllowUnexported(tables{})); d != "" {
			t.Errorf("the kernel has changed (-got +want):\n%s", d)
		}
		for _, x := range both(b.Client, clusterIP(1), 80) {
			if r := x.from.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: x.dst, Timeout: 10 * time.Second}); r.Class != netns.Reply {
				t.Errorf("%v: %v", x.dst, r)
			}
		}
		if n := len(b.repairs()); n != 0 {
			t.Errorf("fairlead has repaired %d times what was not broken", n)
		}
	})
}

// TestUserspaceCleanup wants the kernel to be, after a cleanup, what it was before
// fairlead first ran.
func TestUserspaceCleanup(t *testing.T) {
	eachUserspace(t, func(t *testing.T, b *bed) {
		b.serve(t, netns.TCP, 8080, pod(2), pod(3))
		b.aliens(t)
		before, routes := b.save(t), b.alienRoutes(t)
		b.begin(t, append(others(40, 1), web(1, 2, 3), web(2))...)
		during := b.save(t)
		for _, what := range []string{"FL-PREROUTING", "FL-FORWARD", "FLU4-VIP", "FLU6-REFUSE", "lookup 17997", "local default"} {
			if !strings.Contains(during.ours, what) {
				t.Errorf("fairlead has not written %s:\n%s", what, during.ours)
			}
		}
		if d := cmp.Diff(during.foreign, before.foreign); d != "" {
			t.Errorf("fairlead has touched what is not its own (-got +want):\n%s", d)
		}
		b.stop(t)
		if d := cmp.Diff(b.save(t), during, cmp.AllowUnexported(tables{})); d != "" {
			t.Errorf("something has changed because fairlead was stopped (-got +want):\n%s", d)
		}
		check := func(when string) {
			t.Helper()
			if d := cmp.Diff(b.save(t), before, cmp.AllowUnexported(tables{})); d != "" {
				t.Errorf("%s: not as before (-got +want):\n%s", when, d)
			}
			if d := cmp.Diff(b.alienRoutes(t), routes); d != "" {
				t.Errorf("%s: routes that are not ours have changed (-got +want):\n%s", when, d)
			}
		}
		if out := b.cleanup(t); out == "" {
			t.Error("cleanup says nothing")
		}
		check("after the cleanup")
		if out := b.cleanup(t); out != "" {
			t.Errorf("a second cleanup found something to do:\n%s", out)
		}
		check("after a second cleanup")
		for _, x := range both(b.Client, clusterIP(1), 80) {
			if r := probe(t, x.from, x.dst); b.isPod(r) {
				t.Errorf("%v: after the cleanup: %v", x.dst, r)
			}
		}
	})
}
