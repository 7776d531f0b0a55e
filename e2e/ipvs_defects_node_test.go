//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// TestIPVSDefectNode is about the node that the proxy is on: its kernel, its
// addresses, and what others have there.
func TestIPVSDefectNode(t *testing.T) {
	inRouted(t, []defect{
		{name: "parameters of the kernel are set, and set again", see: "by experiment: unmasqueraded, half of the time no answer", test: parameters},
		{name: "idle connections are remembered as long as by connection tracking", test: idleTimeouts,
			see: "80298, 71358, 120076, kube-router 521, kube-router 911, kubelb 539"},
		{name: "sets have room", see: "129389, 129390", test: roomInSets},
		{name: "an address that comes later has node ports at once", see: "112185, 75443, kubeadm 2205", test: lateAddress},
		{name: "many addresses have node ports", see: "133773", test: manyAddresses},
		{name: "what others have in IPVS is left alone", see: "59507, kube-proxy 6, 76267, 85799, 97336", test: othersServers},
		{name: "another node begins with another endpoint", see: "121591, kube-router 100", test: herd},
		{name: "no connection is answered before it is masqueraded", see: "133773", test: startMasqueraded},
	}, "--ipvs-sync-period=1s")
}

func parameters(t *testing.T, b *bed) {
	want := map[string]string{
		"net/ipv4/vs/conntrack": "1", "net/ipv4/vs/expire_nodest_conn": "1", "net/ipv4/vs/expire_quiescent_template": "1",
		"net/ipv4/vs/conn_reuse_mode": "1", "net/ipv4/ip_forward": "1",
	}
	check := func() error {
		for key, value := range want {
			if got, err := b.N1.Sysctl(key); got != value {
				return fmt.Errorf("%s: got %q, %v, want %s", key, got, err, value)
			}
		}
		return nil
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	for key := range want {
		if err := b.N1.SetSysctl(key, "0"); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 10*time.Second, check)
}

func idleTimeouts(t *testing.T, b *bed) {
	want := make(map[string]string)
	for name, key := range map[string]string{
		"tcp": "net/netfilter/nf_conntrack_tcp_timeout_established", "udp": "net/netfilter/nf_conntrack_udp_timeout_stream",
	} {
		var err error
		if want[name], err = b.N1.Sysctl(key); err != nil {
			t.Fatal(err)
		}
	}
	out := strings.TrimSpace(b.run(t, "ipvsadm -Ln --timeout")) // Timeout (tcp tcpfin udp): 900 120 300
	_, numbers, _ := strings.Cut(out, "): ")
	words := strings.Fields(numbers)
	if len(words) != 3 {
		t.Fatalf("ipvsadm says %q", out)
	}
	if words[0] != want["tcp"] || words[2] != want["udp"] {
		t.Errorf("got %q, want %s s for TCP and %s s for UDP", out, want["tcp"], want["udp"])
	}
}

func roomInSets(t *testing.T, b *bed) {
	b.offer(t, site(60, pod(2)))
	sets := 0
	for _, text := range strings.Split(b.run(t, "ipset list -t"), "Name: ")[1:] {
		name, _, _ := strings.Cut(text, "\n")
		if strings.Contains(text, "Type: hash:") {
			sets++
			if !strings.Contains(text, "maxelem 1048576 ") && !strings.Contains(text, "maxelem 1048576\n") {
				t.Errorf("the set %s has no room for a million: %s", name, text)
			}
		}
	}
	if sets == 0 {
		t.Error("there are no sets of addresses")
	}
}

// further gives n1 addresses beside its own, and takes them away at the end.
func (b *bed) further(t *testing.T, addrs ...netip.Addr) (remove func()) {
	t.Helper()
	if err := b.Localize(addrs); err != nil {
		t.Fatal(err)
	}
	remove = func() {
		if err := b.Localize(nil); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(remove)
	return remove
}

// nodePorts counts the virtual servers of a node port.
func (b *bed) nodePorts(t *testing.T, port uint16) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(b.run(t, "ipvsadm -Sn")) {
		words := strings.Fields(line)
		if words[0] == "-A" && strings.HasSuffix(words[2], fmt.Sprintf(":%d", port)) {
			n++
		}
	}
	return n
}

// forgotten is how long a server may stay of which the last connection was reset:
// the kernel remembers that for ten seconds.
const forgotten = 15 * time.Second

func lateAddress(t *testing.T, b *bed) {
	s := site(61, pod(2))
	s.lb, s.external = nil, nil
	b.offer(t, s)
	late := netns.Dual{V4: netip.MustParseAddr("172.18.0.111"), V6: netip.MustParseAddr("fd00:172:18::111")}
	before := b.nodePorts(t, s.nodePort)
	remove := b.further(t, late.Slice()...)
	took := within(t, quick, func() error {
		for _, dst := range at(late, s.nodePort) {
			r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: dst, Timeout: 200 * time.Millisecond})
			if err := answeredByAny(pod(2))(r); err != nil {
				return fmt.Errorf("%v: %w", dst, err)
			}
		}
		return nil
	})
	t.Logf("answered within %v", took.Round(10*time.Millisecond))
	remove()
	within(t, forgotten, func() error {
		if n := b.nodePorts(t, s.nodePort); n != before {
			return fmt.Errorf("got %d servers, want %d as before the address came", n, before)
		}
		return nil
	})
}

func manyAddresses(t *testing.T, b *bed) {
	const n = 60
	s, u := site(62, pod(2)), site(63, pod(2))
	s.lb, s.external, u.lb, u.external, u.protocol = nil, nil, nil, nil, corev1.ProtocolUDP
	b.offer(t, s, u)
	before := b.nodePorts(t, s.nodePort)
	var addrs []netip.Addr
	for i := range n {
		addrs = append(addrs, netip.AddrFrom4([4]byte{172, 18, 0, byte(120 + i)}))
	}
	remove := b.further(t, addrs...)
	within(t, 2*quick, func() error {
		if got := b.nodePorts(t, s.nodePort); got != before+n {
			return fmt.Errorf("got %d servers, want %d", got, before+n)
		}
		return nil
	})
	for _, port := range []offer{s, u} {
		var ports []netip.AddrPort
		for _, a := range addrs {
			ports = append(ports, netip.AddrPortFrom(a, port.nodePort))
		}
		proto := netns.TCP
		if port.protocol == corev1.ProtocolUDP {
			proto = netns.UDP
		}
		call(t, proto, []*netns.NS{b.Client, b.pod9(t)}, ports, answeredByAny(pod(2)))
	}
	remove()
	within(t, forgotten, func() error {
		if got := b.nodePorts(t, s.nodePort); got != before {
			return fmt.Errorf("got %d servers, want %d", got, before)
		}
		return nil
	})
}

// othersServers has virtual servers and addresses of somebody else, where
// kube-proxy would take them for its own, and in networks it was told to leave.
func othersServers(t *testing.T, b *bed) {
	excluded := offer{fixture: web(64, 2)}
	excluded.ip = netns.Dual{V4: netip.MustParseAddr("10.96.66.1"), V6: netip.MustParseAddr("fd00:10:96::6601")}
	kept := site(65, pod(2))
	b.offer(t, kept)
	theirs := []string{
		"-A -t 192.0.2.50:80 -s wlc", "-a -t 192.0.2.50:80 -r 192.0.2.51:8080 -m -w 3",
		"-A -u 10.96.77.77:53 -s rr", "-A -f 77 -s rr", "-a -f 77 -r 192.0.2.52:0 -m -w 1",
		"-A -t 10.96.66.2:80 -s rr", "-a -t 10.96.66.2:80 -r 192.0.2.53:80 -m -w 1",
	}
	for i, line := range theirs {
		b.run(t, "ipvsadm "+line)
		if strings.HasPrefix(line, "-A") {
			b.undo(t, "ipvsadm -D "+strings.Join(strings.Fields(theirs[i])[1:3], " "))
		}
	}
	b.run(t, "ip addr add 192.0.2.77/32 dev "+device)
	b.undo(t, "ip addr del 192.0.2.77/32 dev "+device)
	check := func(when string) {
		t.Helper()
		have := make(map[string]bool)
		for line := range strings.Lines(b.run(t, "ipvsadm -Sn")) {
			have[strings.TrimSpace(line)] = true
		}
		for _, line := range theirs {
			if !have[line] {
				t.Errorf("%s: %q is gone", when, line)
			}
		}
		if !strings.Contains(b.run(t, "ip -o addr show dev "+device), "192.0.2.77/32") {
			t.Errorf("%s: the address is gone", when)
		}
	}
	b.offer(t)
	check("after a change")
	if err := b.proxy.Kill(); err != nil {
		t.Fatal(err)
	}
	b.lay(t, excluded, kept)
	b.launch(t, "--ipvs-exclude-cidrs=10.96.66.0/24,fd00:10:96::6600/120")
	b.inForce(t)
	time.Sleep(1500 * time.Millisecond) // an audit
	check("after a restart")
	for _, dst := range at(excluded.ip, 80) {
		if got := b.weights(t, dst); got != nil && !usesKubeProxy() {
			t.Errorf("%v is excluded, and has a server: %v", dst, got)
		}
	}
	call(t, netns.TCP, b.everyone(t), at(kept.ip, 80), answeredByAny(pod(2)))
	if usesKubeProxy() {
		return
	}
	b.stop(t)
	b.cleanup(t)
	check("after a cleanup")
	b.launch(t)
	b.inForce(t)
}

// herd starts nodes of different names with the same Service, and looks at the
// endpoint that each calls first.
func herd(t *testing.T, b *bed) {
	onlyFairlead(t) // its Node is another, and kube-proxy waits for that
	b.serve(t, netns.TCP, 8080, pod(5))
	s := site(66, pod(2), pod(3), pod(4), pod(5))
	b.lay(t, s)
	var nodes strings.Builder
	first := make(map[netip.Addr]int)
	names := []string{"w1", "w2", "w3", "w4"}
	for _, name := range names {
		node := corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, a := range netns.NodeAddr(1).Slice() {
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
		}
		text, err := yaml.Marshal(node)
		if err != nil {
			t.Fatal(err)
		}
		nodes.WriteString("---\n" + string(text))
	}
	file := filepath.Join(b.dir, "nodes.yaml")
	if err := os.WriteFile(file, []byte(nodes.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(file) })
	for _, name := range names {
		b.stop(t)
		b.cleanup(t)
		b.launch(t, "--hostname-override="+name)
		b.inForce(t)
		r := probe(t, b.Client, at(s.ip, 80)[0])
		if r.Class != netns.Reply {
			t.Fatalf("%s: %v", name, r)
		}
		first[r.From.Addr.Addr()]++
	}
	if len(first) < 2 {
		t.Errorf("%d nodes began with %v, want them spread over four endpoints", len(names), first)
	}
	b.stop(t)
	b.launch(t)
	b.inForce(t)
}

// startMasqueraded starts the proxy while clients try to connect all the time. The
// endpoints are elsewhere: who is let through without being masqueraded would get
// no answer in another network than that of these tests.
func startMasqueraded(t *testing.T, b *bed) {
	var offers []offer
	for i := range 20 {
		offers = append(offers, site(70+i, remote(2)))
	}
	b.offer(t, offers...)
	if usesKubeProxy() {
		if err := b.proxy.Kill(); err != nil {
			t.Fatal(err)
		}
		b.run(t, "ipvsadm -C")
		b.run(t, "ip link del "+device)
		b.ipt(t, "-t", "nat", "-F")
		b.ipt(t, "-t", "nat", "-X")
		b.run(t, "ipset flush")
	} else {
		b.stop(t)
		b.cleanup(t)
	}
	own, err := b.N1.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	const enough = 50
	plenty := make(chan struct{}) // closed when so many have been answered
	var mu sync.Mutex
	var done sync.WaitGroup
	answered := 0
	for i := range 8 {
		to := slices.Concat(at(offers[i].ip, 80), at(offers[19-i].ip, 80), at(netns.NodeAddr(1), offers[i].nodePort))
		done.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				r := b.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: to[n%len(to)], Timeout: 400 * time.Millisecond})
				if r.Class != netns.Reply {
					continue
				}
				mu.Lock()
				if answered++; answered == enough {
					close(plenty)
				}
				if !slices.Contains(own, r.SeenSource.Addr()) {
					t.Errorf("%v was seen as %v, want it masqueraded", to[n%len(to)], r.SeenSource)
				}
				mu.Unlock()
			}
		})
	}
	b.launch(t)
	b.inForce(t)
	select {
	case <-plenty:
	case <-time.After(10 * time.Second):
		t.Errorf("fewer than %d connections have been answered", enough)
	}
	close(stop)
	done.Wait()
	t.Logf("%d connections were answered", answered)
}
