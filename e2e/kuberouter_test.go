//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// routerState is what the service proxy of kube-router has on a node for the
// examples, as far as it can be in the way: the names, and what they are for, are
// those of kube-router 2. One endpoint is not there any more.
func routerState() []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	add("ip link add kube-dummy-if type dummy")
	add("ip link set kube-dummy-if up")
	add("ipset create kube-router-svip hash:ip timeout 0")
	add("ipset create kube-router-svip-prt hash:ip,port timeout 0")
	for _, a := range []string{"10.96.0.10 80 8080", "10.96.0.20 80 8081"} {
		w := strings.Fields(a)
		add("ip addr add %s/32 dev kube-dummy-if", w[0])
		add("ipvsadm -A -t %s:%s -s rr", w[0], w[1])
		add("ipvsadm -a -t %s:%s -r 10.244.1.3:%s -m", w[0], w[1], w[2])
		add("ipvsadm -a -t %s:%s -r 10.244.1.55:%s -m", w[0], w[1], w[2])
		add("ipset add kube-router-svip %s", w[0])
		add("ipset add kube-router-svip-prt %s,tcp:%s", w[0], w[1])
	}
	add("iptables -N KUBE-ROUTER-SERVICES")
	add("iptables -A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-prt dst,dst -j ACCEPT")
	add("iptables -A KUBE-ROUTER-SERVICES -j REJECT")
	add("iptables -A INPUT -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES")
	return out
}

// routerGone removes it, as the documents say.
func routerGone() []string {
	return []string{
		"ip link del kube-dummy-if",
		"iptables -D INPUT -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES",
		"iptables -F KUBE-ROUTER-SERVICES", "iptables -X KUBE-ROUTER-SERVICES",
		"ipset destroy kube-router-svip", "ipset destroy kube-router-svip-prt",
	}
}

// TestIPVSKubeRouter starts fairlead on a node that kube-router has left as it was,
// and then removes what is left.
func TestIPVSKubeRouter(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	variant := ipvsVariants(t)[0]
	for _, mode := range []world.Mode{world.IPTables, world.IPVS} {
		t.Run(string(mode), func(t *testing.T) {
			b := newBedIn(t, mode, variant)
			b.serve(t, netns.TCP, 8080, netns.PodAddr(1, 2), netns.PodAddr(2, 2))
			b.serve(t, netns.TCP, 8081, netns.PodAddr(1, 3))
			if err := os.CopyFS(b.dir, os.DirFS(filepath.Join(docRoot, "docs", "examples"))); err != nil {
				t.Fatal(err)
			}
			tools := func(commands []string) {
				for _, c := range commands {
					b.run(t, strings.Replace(c, "iptables ", "iptables-"+variant+" -w ", 1))
				}
			}
			tools(routerState())
			foreign := b.run(t, "ipset save kube-router-svip")
			old := b.connect(t, "10.96.0.20:80")
			b.startWith(t, "--manifests="+b.dir)
			within(t, time.Minute, func() error { return b.proxy.WaitOutput(t.Context(), "first sync done") })
			want := []string{"10.96.0.10:80 10.244.1.2", "10.96.0.10:80 10.244.2.2", "10.96.0.20:80 10.244.1.3"}
			answered := func() error {
				if got := b.whoAnswers(t); !slices.Equal(got, want) {
					return fmt.Errorf("answered by %v, want %v", got, want)
				}
				return nil
			}
			if !mode.IPVS() { // which leaves alone what another device has
				within(t, time.Minute, answered)
			}
			if got := b.run(t, "ipset save kube-router-svip"); got != foreign {
				t.Errorf("a set of kube-router's is now\n%s\nand was\n%s", got, foreign)
			}
			if r := old.Exchange(t.Context(), "a"); r.Class != netns.Reply {
				t.Errorf("a connection through kube-router's virtual server does not survive fairlead's start: %v", r)
			}
			tools(routerGone())
			within(t, time.Minute, answered)
			t.Logf("a connection through kube-router's virtual server, after all: %v", old.Exchange(t.Context(), "b"))
		})
	}
}

// connect opens a connection from a pod, through a virtual server of which not every
// endpoint answers.
func (b *bed) connect(t *testing.T, dst string) *netns.Conn {
	t.Helper()
	var c *netns.Conn
	within(t, time.Minute, func() error {
		var r netns.Result
		c, r = b.place(t, netns.PodAddr(1, 9)).Dial(t.Context(), netns.Request{Proto: netns.TCP, Dst: netip.MustParseAddrPort(dst), Timeout: time.Second})
		if c == nil {
			return fmt.Errorf("no connection to %s: %v", dst, r)
		}
		return nil
	})
	t.Cleanup(func() { _ = c.Reset() })
	return c
}

// whoAnswers calls two cluster IPs from a pod, often enough that every endpoint is
// likely to be called, and returns who answers; "nobody" if a call fails.
func (b *bed) whoAnswers(t *testing.T) []string {
	t.Helper()
	from := b.place(t, netns.PodAddr(1, 9))
	seen := make(map[string]bool)
	for range 8 {
		for _, dst := range []string{"10.96.0.10:80", "10.96.0.20:80"} {
			r := from.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: netip.MustParseAddrPort(dst), Timeout: 500 * time.Millisecond})
			who := "nobody"
			if r.Class == netns.Reply {
				who = r.From.Addr.Addr().String()
			}
			seen[dst+" "+who] = true
		}
	}
	var out []string
	for s := range seen {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
