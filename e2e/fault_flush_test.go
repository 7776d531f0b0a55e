//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// repairLimit is how long a repair may take, with a sync period of one second.
// The reading of all tables waits longer after a reading that was slow, which
// it is on a busy machine.
const repairLimit = 2 * time.Minute

// A damage is what somebody else does to the tables.
type damage struct {
	name   string
	broken bool // new connections fail until it is repaired
	quiet  bool // chains have as many rules as before, so only an audit that knows them can tell
	do     func(t *testing.T, b *bed)
}

func damages() []damage {
	run := func(args string) func(*testing.T, *bed) {
		return func(t *testing.T, b *bed) { b.ipt(t, strings.Fields(args)...) }
	}
	return []damage{
		{name: "flush nat", broken: true, do: run("-t nat -F")},
		{name: "flush filter", do: run("-F")},
		{name: "remove a jump of nat", broken: true, do: run("-t nat -D PREROUTING -m comment --comment fairlead -j FL-SERVICES")},
		{name: "remove a jump of filter", do: run("-D FORWARD -m comment --comment fairlead -j FL-FORWARD")},
		{name: "repeat a jump", do: run("-t nat -A OUTPUT -m comment --comment fairlead -j FL-SERVICES")},
		{name: "empty the dispatch chain", broken: true, do: run("-t nat -F FL-SERVICES")},
		{name: "get in first", broken: true, do: run("-t nat -I FL-SERVICES -j RETURN")},
		{name: "empty the masquerading chain", do: run("-t nat -F FL-POSTROUTING")},
		{name: "remove a rule of each frontend", do: eachChain("FL-F-", "-D %s 1")},
		{name: "remove a rule of each pool", do: eachChain("FL-P-", "-D %s 1")},
		{name: "empty the pools", broken: true, do: eachChain("FL-P-", "-F %s")},
		{name: "replace a rule of each pool", broken: true, quiet: true, do: eachChain("FL-P-", "-R %s 1 -j RETURN")},
		{name: "replace a rule of each frontend", quiet: true, do: eachChain("FL-F-", "-R %s 1 -p 253 -j RETURN")},
		{name: "empty branches of the tree", broken: true, do: eachChain("FL-T-", "-F %s")},
		{name: "change the order of the dispatch", quiet: true, do: reorder},
		{name: "add a chain of our name", do: run("-t nat -N FL-INTRUDER")},
		{name: "jump to us from elsewhere", do: run("-t nat -A FOREIGN -p tcp --dport 9 -j FL-SERVICES")},
		// Last, since it takes the rules of others along.
		{name: "flush and delete nat", broken: true, do: wipe("*nat\n-F\n-X\nCOMMIT\n")},
		{name: "flush and delete everything", broken: true, do: wipe("*nat\n-F\n-X\nCOMMIT\n*filter\n-F\n-X\nCOMMIT\n")},
	}
}

func wipe(input string) func(*testing.T, *bed) {
	return func(t *testing.T, b *bed) {
		t.Helper()
		b.restore(t, "iptables-", input)
		b.restore(t, "ip6tables-", input)
	}
}

// eachChain does something to every chain of the nat table whose name begins so,
// all at once.
func eachChain(prefix, verb string) func(*testing.T, *bed) {
	return func(t *testing.T, b *bed) {
		t.Helper()
		n := 0
		for _, name := range []string{"iptables-", "ip6tables-"} {
			text, err := b.tool(t.Context(), "", name+b.variant+"-save", "-t", "nat")
			if err != nil {
				t.Fatal(err)
			}
			var input strings.Builder
			for _, m := range regexp.MustCompile(`(?m)^:(`+prefix+`\S+)`).FindAllStringSubmatch(text, -1) {
				fmt.Fprintf(&input, verb+"\n", m[1])
				n++
			}
			b.restore(t, name, "*nat\n"+input.String()+"COMMIT\n")
		}
		if n == 0 {
			t.Errorf("there are no chains %s…", prefix)
		}
	}
}

// reorder moves the first rule of the dispatch chain to its end.
func reorder(t *testing.T, b *bed) {
	t.Helper()
	for _, name := range []string{"iptables-", "ip6tables-"} {
		text, err := b.tool(t.Context(), "", name+b.variant, "-w", "-t", "nat", "-S", "FL-SERVICES")
		if err != nil {
			t.Fatal(err)
		}
		rules := regexp.MustCompile(`(?m)^-A FL-SERVICES .*$`).FindAllString(text, -1)
		if len(rules) < 2 {
			t.Fatalf("only %d rules in FL-SERVICES", len(rules))
		}
		b.restore(t, name, "*nat\n-D FL-SERVICES 1\n"+rules[0]+"\nCOMMIT\n")
	}
}

func (b *bed) restore(t *testing.T, name, input string) {
	t.Helper()
	if _, err := b.tool(t.Context(), input, name+b.variant+"-restore", "-w", "--noflush"); err != nil {
		t.Fatalf("%v\n%s", err, input)
	}
}

// foreignRules are those of somebody else, who jumps to chains of his own.
func (b *bed) foreignRules(t *testing.T) {
	t.Helper()
	for _, args := range []string{
		"-t nat -N FOREIGN", "-t nat -A FOREIGN -p tcp --dport 9 -j RETURN",
		"-t nat -A PREROUTING -j FOREIGN", "-t nat -A POSTROUTING -p 253 -j MASQUERADE",
		"-N FOREIGN", "-A FOREIGN -p tcp --dport 9 -j DROP",
		"-A FORWARD -j FOREIGN", "-A INPUT -p 253 -j ACCEPT",
		"-t mangle -A PREROUTING -p 253 -j ACCEPT",
	} {
		b.ipt(t, strings.Fields(args)...)
	}
}

// TestFaultFlush damages the tables behind fairlead's back.
func TestFaultFlush(t *testing.T) {
	eachVariant(t, func(t *testing.T, b *bed) {
		b.serve(t, netns.TCP, 8080, pod(2), pod(3))
		b.foreignRules(t)
		b.begin(t, web(1, 2, 3), web(2, 2), web(3))
		want := b.save(t)
		for _, d := range damages() {
			if d.quiet {
				b.awaitAudit(t)
			}
			d.do(t, b)
			damaged := b.save(t)
			if damaged.ours == want.ours && damaged.foreign == want.foreign {
				t.Errorf("%s: nothing is broken", d.name)
				continue
			}
			at := netip.AddrPortFrom(clusterIP(1).V4, 80)
			if r := probe(t, b.Client, at); d.broken && r.Class == netns.Reply && b.save(t).ours != want.ours {
				t.Errorf("%s: no harm done: %v", d.name, r)
			}
			took := within(t, repairLimit, func() error {
				if now := b.save(t); now.ours != want.ours {
					return errors.New(d.name + ": not repaired (-got +want):\n" + cmp.Diff(now.ours, want.ours))
				}
				return nil
			})
			t.Logf("%s: repaired after %v", d.name, took.Round(10*time.Millisecond))
			for _, x := range append(both(b.Client, clusterIP(1), 80), both(b.N1.NS, clusterIP(2), 80)...) {
				if r := probe(t, x.from, x.dst); r.Class != netns.Reply {
					t.Errorf("%s: after the repair: %v: %v", d.name, x.dst, r)
				}
			}
			if diff := cmp.Diff(b.save(t).foreign, damaged.foreign); diff != "" {
				t.Errorf("%s: the repair touched rules that are not ours (-got +want):\n%s", d.name, diff)
			}
		}
	}, "--iptables-sync-period=1s")
}

// awaitAudit waits until fairlead has read the tables of both families since it
// wrote to them last.
func (b *bed) awaitAudit(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(repairLimit); b.metric(t, "fairlead_iptables_verified") != 2; {
		if time.Now().After(deadline) {
			t.Fatalf("the tables are not read any more\n%s", b.proxy.Tail(20))
		}
		time.Sleep(20 * time.Millisecond)
	}
}
