//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// eachIPVS runs a test in a bed of its own in each IPVS mode, with each kind of
// iptables that works here in the usual one.
func eachIPVS(t *testing.T, test func(t *testing.T, b *bed), args ...string) {
	requireIPVS(t)
	t.Parallel()
	works := ipvsVariants(t)
	run := func(mode world.Mode, variant string) {
		t.Run(string(mode)+"-"+variant, func(t *testing.T) {
			t.Parallel()
			test(t, newBedIn(t, mode, variant, args...))
		})
	}
	for _, v := range works {
		run(world.IPVS, v)
	}
	run(world.IPVSDevice, works[0])
}

// newIPVSBed is a bed in the usual IPVS mode.
func newIPVSBed(t *testing.T, args ...string) *bed {
	t.Helper()
	requireIPVS(t)
	t.Parallel()
	return newBedIn(t, world.IPVS, ipvsVariants(t)[0], args...)
}

// awaitDrained waits until nothing is left of what was removed.
func (b *bed) awaitDrained(t *testing.T) {
	t.Helper()
	// The kernel remembers a connection that was reset for ten seconds, and one
	// that was closed for two minutes.
	within(t, 150*time.Second, func() error {
		left, err := b.Draining(t.Context(), b.marker)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("still there: %s", strings.Join(left, ", "))
		}
		return err
	})
}

// run runs a command on n1, written as in a shell without any quoting.
func (b *bed) run(t *testing.T, command string) string {
	t.Helper()
	words := strings.Fields(command)
	out, err := b.tool(t.Context(), "", words[0], words[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// saveIPVS reads what fairlead writes in the IPVS modes apart from rules of
// iptables, and what of others is in the same places. Equal states are equal
// texts: what only says how often, how many or when is left out.
func (b *bed) saveIPVS(t *testing.T, mine, others *section) {
	t.Helper()
	b.saveSets(t, mine, others)
	b.saveServers(t, mine, others)
	b.saveRouting(t, "17996", mine, others)
	b.saveDevice(t, mine, others)
	for _, name := range []string{"conntrack", "expire_nodest_conn", "expire_quiescent_template"} {
		value, err := b.N1.Sysctl("net/ipv4/vs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		mine.add("sysctl", name+" "+value)
	}
}

// saveRouting lists the routing rules, and the routes of fairlead's table.
func (b *bed) saveRouting(t *testing.T, table string, mine, others *section) {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		for line := range strings.Lines(b.run(t, "ip "+family+" rule")) {
			into := others
			if strings.Contains(line, "lookup "+table) {
				into = mine
			}
			into.add("rule "+family, line)
		}
		mine.add("table "+family, sortLines(b.table(t, family, table))...)
	}
}

// A section is lines under headings.
type section map[string][]string

func (s *section) add(heading string, lines ...string) {
	if *s == nil {
		*s = make(section)
	}
	for _, l := range lines {
		(*s)[heading] = append((*s)[heading], strings.TrimSpace(l))
	}
}

// String lists the sections by heading, their lines in the order they came in.
func (s section) String() string {
	var out strings.Builder
	for _, h := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&out, "%s\n\t%s\n", h, strings.Join(s[h], "\n\t"))
	}
	return out.String()
}

func sortLines(text string) []string {
	lines := slices.Collect(strings.Lines(text))
	slices.Sort(lines)
	return lines
}

// table lists a routing table. One that was never written to is empty.
func (b *bed) table(t *testing.T, family, table string) string {
	t.Helper()
	out, err := b.tool(t.Context(), "", "ip", family, "route", "show", "table", table)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || !strings.Contains(err.Error(), "FIB table does not exist")) {
		t.Fatal(err)
	}
	return out
}

// isOurSet reports whether a set has one of fairlead's names.
func isOurSet(name string) bool {
	return slices.ContainsFunc([]string{"FL4-", "FL6-", "FLU4-", "FLU6-"}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// saveSets lists sets, and notes which virtual servers they say are fairlead's.
func (b *bed) saveSets(t *testing.T, mine, others *section) {
	t.Helper()
	for _, line := range sortLines(b.run(t, "ipset save")) {
		words := strings.Fields(line)
		if words[0] == "create" {
			// What the kernel chooses: initval, and sizes that grow.
			words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "0x") })
			for _, option := range []string{"hashsize", "bucketsize", "initval"} {
				if i := slices.Index(words, option); i >= 0 {
					words = slices.Delete(words, i, min(i+2, len(words)))
				}
			}
		}
		into := others
		if isOurSet(words[1]) {
			into = mine
		}
		into.add("set "+words[1], strings.Join(words, " "))
		if strings.HasSuffix(words[1], "-OWN") && words[0] == "add" {
			b.owned[words[2]] = true
		}
	}
}

// saveServers lists virtual servers with their destinations.
func (b *bed) saveServers(t *testing.T, mine, others *section) {
	t.Helper()
	for _, line := range b.listServers(t) {
		words := strings.Fields(line) // -A -t 10.96.0.1:80 -s rr, or -a with -r and -w
		proto := map[string]string{"-t": "tcp", "-u": "udp", "--sctp-service": "sctp"}[words[1]]
		into := others
		if at, err := netip.ParseAddrPort(words[2]); err == nil && b.owned[fmt.Sprintf("%v,%s:%d", at.Addr(), proto, at.Port())] {
			into = mine
		}
		into.add("server "+words[1]+" "+words[2], line)
	}
}

// listServers returns what "ipvsadm -Sn" prints, sorted. While servers are removed in
// other network namespaces the kernel leaves some out, or shows some twice: so it
// asks until three listings in a row have nothing new.
func (b *bed) listServers(t *testing.T) []string {
	t.Helper()
	all := make(map[string]bool)
	for known := 0; known < 3; known++ {
		for line := range strings.Lines(b.run(t, "ipvsadm -Sn")) {
			if !all[line] {
				all[line], known = true, -1
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// saveDevice lists the device: fairlead's are all addresses on it that are where
// the world has virtual ones, or are aliases of them. Whether it is up is left
// out, and what comes and goes with that: what counts is the local routes of the
// addresses, which catch packets.
func (b *bed) saveDevice(t *testing.T, mine, others *section) {
	t.Helper()
	if _, err := b.tool(t.Context(), "", "ip", "-o", "link", "show", "dev", device); err != nil {
		mine.add("device", "none")
		return
	}
	mine.add("device", "there")
	add := func(heading string, a netip.Addr, line string) {
		switch {
		case a.IsLinkLocalUnicast() || a.IsMulticast():
		case isVirtual(a):
			mine.add(heading, line)
		default:
			others.add(heading, line)
		}
	}
	for _, line := range sortLines(b.run(t, "ip -o addr show dev "+device)) {
		text := strings.Fields(line)[3]
		p, err := netip.ParsePrefix(text)
		if err != nil {
			t.Fatal(err)
		}
		add("device", p.Addr(), text)
	}
	for _, family := range []string{"-4", "-6"} {
		for _, line := range sortLines(b.run(t, "ip "+family+" route show table local dev "+device)) {
			words := strings.Fields(line)
			if a, err := netip.ParseAddr(words[1]); err == nil && words[0] == "local" {
				add("local routes "+family, a, line)
			}
		}
	}
}

// device is where virtual addresses are, as far as they are anywhere.
const device = "kube-ipvs0"

func isVirtual(a netip.Addr) bool {
	for _, p := range slices.Concat(netns.ServiceCIDR().Slice(), netns.VIPRange().Slice(), []netip.Prefix{
		netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fdfa::/16"),
	}) {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
