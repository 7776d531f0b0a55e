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
	"github.com/fairlead-project/fairlead/e2e/world"
)

// The tests below update fairlead as a DaemonSet does: with the old process gone before
// the new one starts, with both of them there for a while, and after the old one was
// killed. Nobody who connects may notice, and no connection may end.

func TestRollingUpdate(t *testing.T) { eachVariant(t, rollingUpdate) }
func TestIPVSRollingUpdate(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	rollingUpdate(t, newBedIn(t, world.IPVS, ipvsVariants(t)[0]))
}

func rollingUpdate(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4))
	b.begin(t, web(1, 2, 3, 4))
	p := b.hammer(t, 100*time.Millisecond, slices.Concat(
		both(b.Client, netns.NodeAddr(1), 30001), both(b.place(t, pod(9)), clusterIP(1), 80), both(b.N1.NS, clusterIP(1), 80))...)
	open := b.dialAll(t, 10)
	alive := func(when string) {
		t.Helper()
		for i, c := range open {
			if r := c.Exchange(t.Context(), when); r.Class != netns.Reply {
				t.Errorf("%s: connection %d: %v", when, i, r)
			}
		}
	}
	b.stop(t)
	b.start(t)
	b.await(t)
	alive("after the old process had ended and the new one began")

	old := b.proxy
	b.start(t) // beside the old one
	b.await(t)
	if err := old.Stop(); err != nil {
		t.Error(err)
	}
	b.apply(t, web(1, 2, 3, 4), web(2, 2))
	alive("after both had been there")

	if err := b.proxy.Kill(); err != nil {
		t.Fatal(err)
	}
	b.start(t)
	b.apply(t, web(1, 2, 3, 4), web(3, 3))
	alive("after a kill")
	p.more(t, 30)
	p.finish(t, 50)
}

// leftovers are rules of kube-proxy of older versions, and what others have beside
// them, as iptables-restore takes it. The masquerading chain is used by a CNI plugin.
const leftovers = `*mangle
:KUBE-PROXY-CANARY - [0:0]
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-MARK-DROP - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
:KUBE-SEP-SXIVWICOYRO3J4NJ - [0:0]
:KUBE-XLB-XPGD46QRK7WJZT7O - [0:0]
:KUBE-FW-XPGD46QRK7WJZT7O - [0:0]
:KUBE-EXT-XPGD46QRK7WJZT7O - [0:0]
:CNI-HOSTPORT - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -p tcp -m comment --comment "default/kubernetes:https cluster IP" -m tcp --dport 443 -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-NPX46M4PTMTKRN6Y -j KUBE-SEP-SXIVWICOYRO3J4NJ
-A KUBE-SEP-SXIVWICOYRO3J4NJ -j KUBE-MARK-MASQ
-A KUBE-FW-XPGD46QRK7WJZT7O -j KUBE-EXT-XPGD46QRK7WJZT7O
-A KUBE-EXT-XPGD46QRK7WJZT7O -j KUBE-XLB-XPGD46QRK7WJZT7O
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE
-A CNI-HOSTPORT -p tcp -m tcp --dport 1 -j KUBE-MARK-MASQ
COMMIT
*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
`

// TestTakeoverOldVersions removes what versions of kube-proxy have left that are too old to
// run, in either variant of iptables, whichever fairlead uses. It has been made up from what
// their sources write; TestVersionsTakeover runs those that can be.
func TestTakeoverOldVersions(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft")
	b.serve(t, netns.TCP, 8080, pod(2))
	for _, name := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		if _, err := b.tool(t.Context(), leftovers, name+"-restore", "--noflush"); err != nil {
			t.Fatal(err)
		}
	}
	for _, set := range []string{"KUBE-CLUSTER-IP hash:ip,port", "KUBE-LOOP-BACK hash:ip,port,ip", "KUBE-NODE-PORT-TCP bitmap:port range 0-65535", "KUBE-6-LOAD-BALANCER-SOURCE-CID hash:ip,port,net family inet6"} {
		b.run(t, "ipset create "+set)
	}
	b.run(t, "ipset create KUBE-MINE hash:ip")
	for _, line := range []string{"table ip kube-proxy", "table ip6 kube-proxy", "chain ip6 kube-proxy services", "table ip kube-proxy-of-mine"} {
		b.run(t, "nft add "+line)
	}
	b.begin(t, web(1, 2))

	// What stays: the chains of the kubelet, and those that somebody else uses.
	want := []string{
		"*filter KUBE-FIREWALL", "*mangle KUBE-IPTABLES-HINT", "*nat CNI-HOSTPORT", "*nat KUBE-MARK-DROP",
		"*nat KUBE-MARK-MASQ", "*nat KUBE-POSTROUTING",
	}
	within(t, time.Minute, func() error {
		for _, name := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
			text, err := b.tool(t.Context(), "", name+"-save")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(chainsOf(text), want); d != "" {
				return fmt.Errorf("chains of others in %s (-got +want):\n%s", name, d)
			}
		}
		sets := strings.Fields(b.run(t, "ipset list -n"))
		sets = slices.DeleteFunc(sets, func(s string) bool { return !strings.HasPrefix(s, "KUBE-") })
		if d := cmp.Diff(sets, []string{"KUBE-MINE"}); d != "" {
			return fmt.Errorf("sets (-got +want):\n%s", d)
		}
		if got := b.run(t, "nft list tables"); strings.Contains(got, "kube-proxy\n") || !strings.Contains(got, "table ip kube-proxy-of-mine") {
			return fmt.Errorf("tables of nftables: %s", got)
		}
		return nil
	})
	for _, x := range both(b.Client, clusterIP(1), 80) {
		if r := probe(t, x.from, x.dst); r.Class != netns.Reply {
			t.Errorf("the Service: %v", r)
		}
	}
	b.says(t, "a rule of somebody else leads to it")
}

// chainsOf returns the chains of others in the output of iptables-save, sorted.
func chainsOf(save string) []string {
	var out []string
	table := ""
	for line := range strings.Lines(save) {
		switch name, _, _ := strings.Cut(line[1:], " "); {
		case line[0] == '*':
			table = strings.TrimSpace(line)
		case line[0] == ':' && !strings.HasPrefix(name, "FL-") && strings.Contains(name, "-"):
			out = append(out, table+" "+name)
		}
	}
	slices.Sort(out)
	return out
}
