//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// atOnce is how long the repair may take of what the kernel tells of.
const atOnce = time.Second

// An injury is what somebody else does to what fairlead has in the kernel apart
// from rules of iptables, or to them as far as IPVS needs them.
type injury struct {
	name   string
	broken bool         // new connections to a cluster IP fail until it is repaired
	told   bool         // the kernel tells of it; one command, since fairlead is deaf while it repairs
	not    []world.Mode // where there is no such thing
	do     func(t *testing.T, b *bed)
}

func injuries() []injury {
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
	v4, v6 := at(clusterIP(1), 80)[0], at(clusterIP(1), 80)[1]
	routed, inDevice := []world.Mode{world.IPVSDevice}, []world.Mode{world.IPVS}
	vip := clusterIP(1).V4.String()
	return []injury{
		{name: "clear IPVS", broken: true, do: run("ipvsadm -C")},
		{name: "delete a server", broken: true, do: run(fmt.Sprintf("ipvsadm -D -t %v", v4), fmt.Sprintf("ipvsadm -D -t %v", v6))},
		{name: "delete a destination", do: run(fmt.Sprintf("ipvsadm -d -t %v -r %v:8080", v4, pod(2).V4))},
		{name: "take all weight", broken: true, do: weigh(v4)},
		{name: "add a destination", do: run(fmt.Sprintf("ipvsadm -a -t %v -r %v:9 -m", v4, pod(9).V4))},
		{name: "change the scheduler", do: run(fmt.Sprintf("ipvsadm -E -t %v -s wlc", v4))},
		{name: "make a server persistent", do: run(fmt.Sprintf("ipvsadm -E -t %v -s rr -p 60", v4))},
		{name: "delete an element", broken: true, not: routed, do: run(fmt.Sprintf("ipset del FL4-VIP %s,tcp:80", vip))},
		{name: "add an element", do: run(fmt.Sprintf("ipset add FL4-MASQ %s,tcp:80", vip))},
		{name: "refuse a Service", broken: true, do: run(fmt.Sprintf("ipset add FL4-REFUSE %s,tcp:80", vip))},
		{name: "disown a server", do: run(fmt.Sprintf("ipset del FL4-OWN %s,tcp:80", vip))},
		{name: "flush a set", broken: true, not: routed, do: run("ipset flush FL4-VIP", "ipset flush FL6-VIP")},
		{name: "flush every set", broken: true, not: routed, do: eachSet("flush")},
		{name: "destroy every set", broken: true, not: routed, do: destroySets},
		{name: "flush mangle", broken: true, not: routed, do: ipt("-t mangle -F")},
		{name: "empty a chain", broken: true, not: routed, do: ipt("-t mangle -F FL-PREROUTING")},
		{name: "remove a jump", broken: true, not: routed, do: ipt("-t mangle -D PREROUTING -m comment --comment fairlead -j FL-PREROUTING")},
		{name: "flush nat", do: ipt("-t nat -F")},
		{name: "flush filter", do: ipt("-F")},
		{name: "delete the routing rule", broken: true, told: true, not: routed, do: run("ip rule del lookup 17996")},
		{name: "delete the routing rule of IPv6", told: true, not: routed, do: run("ip -6 rule del lookup 17996")},
		{name: "flush the routing table", broken: true, told: true, not: routed, do: run("ip route flush table 17996")},
		{name: "flush the routing table of IPv6", told: true, not: routed, do: run("ip -6 route flush table 17996")},
		{name: "delete a route", broken: true, told: true, not: routed,
			do: run("ip route del local " + vip + " table 17996")},
		{name: "delete an address", told: true, do: run("ip addr del " + vip + "/32 dev " + device)},
		{name: "delete an address that packets come to", broken: true, told: true, not: inDevice,
			do: run("ip addr del " + vip + "/32 dev " + device)},
		{name: "delete the device", told: true, do: run("ip link del " + device)},
		{name: "set the device up", told: true, not: routed, do: run("ip link set " + device + " up")},
		{name: "add the local route of an address", told: true, not: routed,
			do: run("ip route add local " + vip + " dev " + device + " table local")},
		{name: "forget connection tracking", do: func(t *testing.T, b *bed) {
			t.Helper()
			if err := b.N1.SetSysctl("net/ipv4/vs/conntrack", "0"); err != nil {
				t.Fatal(err)
			}
		}},
	}
}

// weigh gives every destination of a TCP server the weight 0.
func weigh(server netip.AddrPort) func(*testing.T, *bed) {
	return func(t *testing.T, b *bed) {
		t.Helper()
		for _, m := range []int{2, 3} {
			b.run(t, fmt.Sprintf("ipvsadm -e -t %v -r %v:8080 -m -w 0", server, pod(m).V4))
		}
	}
}

// ourSets lists the names of fairlead's sets.
func (b *bed) ourSets(t *testing.T) []string {
	t.Helper()
	names := strings.Fields(b.run(t, "ipset list -n"))
	return slices.DeleteFunc(names, func(n string) bool { return !isOurSet(n) })
}

func eachSet(verb string) func(*testing.T, *bed) {
	return func(t *testing.T, b *bed) {
		t.Helper()
		var input strings.Builder
		for _, name := range b.ourSets(t) {
			fmt.Fprintln(&input, verb, name)
		}
		if _, err := b.tool(t.Context(), input.String(), "ipset", "restore"); err != nil {
			t.Fatal(err)
		}
	}
}

// destroySets takes every rule away that refers to a set, of others too, and then
// the sets.
func destroySets(t *testing.T, b *bed) {
	t.Helper()
	wipe("*mangle\n-F\n-X\nCOMMIT\n*nat\n-F\n-X\nCOMMIT\n*filter\n-F\n-X\nCOMMIT\n")(t, b)
	eachSet("destroy")(t, b)
}

// TestIPVSFaultFlush damages what fairlead has in the kernel behind its back.
func TestIPVSFaultFlush(t *testing.T) {
	eachIPVS(t, func(t *testing.T, b *bed) { b.injure(t, injuries(), repairLimit) }, "--ipvs-sync-period=1s")
}

// TestIPVSFaultTold does the same as far as the kernel tells of it: the repair
// must not wait for the end of a period.
func TestIPVSFaultTold(t *testing.T) {
	told := slices.DeleteFunc(injuries(), func(i injury) bool { return !i.told })
	eachIPVS(t, func(t *testing.T, b *bed) { b.injure(t, told, atOnce) }, "--ipvs-sync-period=10m")
}

// injure does one thing after the other, and wants each to be repaired in time.
func (b *bed) injure(t *testing.T, list []injury, limit time.Duration) {
	t.Helper()
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	b.begin(t, web(1, 2, 3), web(2, 2), web(3))
	b.foreignRules(t)
	b.foreignKernel(t)
	want := b.save(t)
	for _, in := range list {
		if slices.Contains(in.not, b.mode) {
			continue
		}
		before := len(b.repairs())
		in.do(t, b)
		done := time.Now()
		if in.broken {
			b.wantBroken(t, in, before)
		}
		foreign := b.save(t).foreign
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
			if r := probe(t, x.from, x.dst); r.Class != netns.Reply {
				t.Errorf("%s: after the repair: %v: %v", in.name, x.dst, r)
			}
		}
		if diff := cmp.Diff(b.save(t).foreign, foreign); diff != "" {
			t.Errorf("%s: the repair touched what is not ours (-got +want):\n%s", in.name, diff)
		}
	}
}

// wantBroken wants a new connection to fail, unless fairlead was faster.
func (b *bed) wantBroken(t *testing.T, in injury, repairs int) {
	t.Helper()
	x := at(clusterIP(1), 80)[0]
	r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: x, Timeout: 200 * time.Millisecond})
	if len(b.repairs()) == repairs && r.Class == netns.Reply && r.From.Name != b.Elsewhere.Name() {
		t.Errorf("%s: no harm done: %v", in.name, r)
	}
}

// repairLine is what fairlead logs when it has repaired something.
var repairLine = regexp.MustCompile(`(?m)^time=(\S+) level=WARN msg="somebody else had changed our kernel state; repaired"`)

// repairs are the times of all repairs that needed one look. To look at the log
// costs nothing; to read everything there is takes a second in some kernels.
func (b *bed) repairs() []time.Time {
	var out []time.Time
	for _, m := range repairLine.FindAllStringSubmatch(b.proxy.Output(), -1) {
		if at, err := time.Parse(time.RFC3339Nano, m[1]); err == nil {
			out = append(out, at)
		}
	}
	return out
}

// awaitRepair waits until everything of fairlead's is as it was.
func (b *bed) awaitRepair(t *testing.T, in injury, want tables) {
	t.Helper()
	within(t, repairLimit, func() error {
		now := b.save(t)
		if now.ours != want.ours {
			return errors.New(in.name + ": not repaired (-got +want):\n" + cmp.Diff(now.ours, want.ours))
		}
		return nil
	})
}

// foreignKernel is what somebody else has beside what is fairlead's.
func (b *bed) foreignKernel(t *testing.T) {
	t.Helper()
	for _, c := range []string{
		"ipvsadm -A -t 192.0.2.50:80 -s wlc", "ipvsadm -a -t 192.0.2.50:80 -r 192.0.2.51:8080 -m -w 3",
		"ipvsadm -A -u 10.96.77.77:53 -s rr", "ipvsadm -A -f 77 -s rr",
		"ipset create OTHER hash:ip", "ipset add OTHER 192.0.2.60", "ipset create FLOOD hash:ip,port family inet6",
		"ip rule add pref 95 fwmark 0x1/0x1 lookup 100", "ip route add local 192.0.2.70 dev lo table 100",
		"ip addr add 192.0.2.77/32 dev " + device,
	} {
		b.run(t, c)
	}
}

// TestIPVSFaultCleanup wants the kernel to be, after a cleanup, what it was before
// fairlead first ran, down to the sysctls that only fairlead has any use for.
func TestIPVSFaultCleanup(t *testing.T) {
	eachIPVS(t, func(t *testing.T, b *bed) {
		b.serve(t, netns.TCP, 8080, pod(2), pod(3))
		b.run(t, "ip link add "+device+" type dummy") // as somebody who has an address there would
		b.foreignRules(t)
		b.foreignKernel(t)
		before := b.save(t)
		b.begin(t, append(others(40, 1), web(1, 2, 3), web(2))...)
		if during := b.save(t); !strings.Contains(during.ours, "FL-SERVICES") || during.foreign != before.foreign {
			t.Errorf("fairlead has written nothing, or has touched what is not its own (-got +want):\n%s", cmp.Diff(during.foreign, before.foreign))
		}
		if err := b.proxy.Kill(); err != nil {
			t.Fatal(err)
		}
		check := func(when string) {
			t.Helper()
			after := b.save(t)
			if d := cmp.Diff(after.foreign, before.foreign); d != "" {
				t.Errorf("%s: what is not ours has changed (-got +want):\n%s", when, d)
			}
			if d := cmp.Diff(withoutSysctls(after.ours), withoutSysctls(before.ours)); d != "" {
				t.Errorf("%s: not as before (-got +want):\n%s", when, d)
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
	})
}

// withoutSysctls leaves out parameters, which stay: others may use IPVS too.
func withoutSysctls(text string) string {
	before, _, _ := strings.Cut(text, "sysctl\n")
	_, after, _ := strings.Cut(text, "table -4\n")
	return before + after
}
