//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// A hostile is the content of a file beside the good ones.
type hostile struct {
	name string
	text string
	says []string // parts of one line of the log each
	// works are addresses that are answered in spite of all, from the client.
	works []netip.AddrPort
	// not are addresses that must not be answered by a pod, from the host.
	not []netip.AddrPort
}

// manifest is a Service with its slices as text, after a change to the Service.
func manifest(f fixture, change ...func(*corev1.Service)) string {
	svc := f.service()
	for _, c := range change {
		c(svc)
	}
	objects := []any{svc}
	for _, sl := range f.slices() {
		objects = append(objects, sl)
	}
	var out strings.Builder
	for _, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			panic(err) // no fixture can cause it
		}
		out.WriteString("---\n" + string(text))
	}
	return out.String()
}

func at(d netns.Dual, port uint16) []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(d.V4, port), netip.AddrPortFrom(d.V6, port)}
}

// plain is a Service that looks like web-i and is nobody's.
func plain(i int) fixture {
	f := web(i, 2, 3)
	f.nodePort = 0
	return f
}

// with returns the manifests of plain(i), the first occurrence of old replaced.
func with(i int, old, replacement string) string {
	text := manifest(plain(i))
	if !strings.Contains(text, old) {
		panic(fmt.Sprintf("no %q in\n%s", old, text))
	}
	return strings.Replace(text, old, replacement, 1)
}

const file = "zy-hostile.yaml"

func brokenFiles() []hostile {
	good := append(at(clusterIP(21), 80), at(clusterIP(23), 80)...)
	around := func(broken string) string {
		return manifest(plain(21)) + "---\n" + broken + "\n" + manifest(plain(23))
	}
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		laughs += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	return []hostile{
		{name: "syntax error", text: around("kind: Service\n  bad: [indentation"), works: good,
			says: []string{`msg="error in a manifest" file=`, file}},
		{name: "unknown field", text: around(with(22, "  ports:", "  prots:")), works: good,
			says: []string{file, "field=spec.prots", "unknown field"}, not: at(clusterIP(22), 80)},
		{name: "wrong type", text: around(with(22, "- port: 80\n", "- port: \"80\"\n")), works: good,
			says: []string{file, "field=spec.ports[0].port", "must be a number"}},
		{name: "number out of range", text: around(with(22, "- port: 80\n", "- port: 99999999999999999999\n")), works: good,
			says: []string{file, "field=spec.ports[0].port"}},
		{name: "aliases", text: around("apiVersion: v1\nkind: Service\nmetadata:\n  name: laughs\n" + laughs), works: good,
			says: []string{file}},
		{name: "depth", text: around("apiVersion: v1\nkind: Service\nmetadata: " + strings.Repeat("{a: ", 5000) + strings.Repeat("}", 5000)), works: good,
			says: []string{file}},
		{name: "not text", text: around("\x00\xff\xfe\x1b[31m"), works: good,
			says: []string{file}},
		{name: "one more of the same name", text: around(with(1, clusterIP(1).V4.String(), clusterIP(22).V4.String())), works: good,
			says: []string{file, "already in"}},
	}
}

func brokenValues() []hostile {
	ip := clusterIP(22)
	change := func(c func(o *corev1.Service)) string { return manifest(plain(22), c) }
	endpointAt := func(v4, v6 string) string {
		f := plain(22)
		f.endpoints[0].pod = netns.Dual{V4: netip.MustParseAddr(v4), V6: netip.MustParseAddr(v6)}
		return manifest(f)
	}
	return []hostile{
		{name: "ports", works: at(ip, 80), says: []string{"reason=InvalidPort", "default/web-22", "spec.ports[1].port", "70000"},
			text: change(func(o *corev1.Service) {
				o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{Name: "p1", Port: 70000}, corev1.ServicePort{Name: "p2"},
					corev1.ServicePort{Name: "p3", Port: -1}, corev1.ServicePort{Name: "p4", Port: 80}, corev1.ServicePort{Name: "p4", Port: 82},
					corev1.ServicePort{Name: "p5", Port: 81, Protocol: "TCP -j ACCEPT"}, corev1.ServicePort{Name: "p6", Port: 83, NodePort: 99999})
			})},
		{name: "addresses", works: at(ip, 80), says: []string{"reason=InvalidAddress", "default/web-22", "spec.externalIPs[2]", "224.0.0.1"},
			text: change(func(o *corev1.Service) {
				o.Spec.ExternalIPs = []string{"127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "ff02::1",
					"fe80::1%eth0", "1.2.3.4; reboot", "::ffff:127.0.0.1"}
			})},
		{name: "a loopback cluster IP", says: []string{"reason=InvalidAddress", "default/web-22", "spec.clusterIPs[0]", "127.0.0.1"},
			text: change(func(o *corev1.Service) { o.Spec.ClusterIP, o.Spec.ClusterIPs[0] = "127.0.0.1", "127.0.0.1" })},
		{name: "the address of another Service", says: []string{"reason=FrontendConflict", "default/web-22", "spec.clusterIPs"},
			text: change(func(o *corev1.Service) {
				mine := clusterIP(1)
				o.Spec.ClusterIP, o.Spec.ClusterIPs = mine.V4.String(), []string{mine.V4.String(), mine.V6.String()}
			})},
		{name: "the node's own address", works: append(append(at(netns.NodeAddr(1), 22), at(netns.NodeAddr(1), 10250)...), at(ip, 22)...),
			text: ownAddress()},
		{name: "a namespace", says: []string{"reason=InvalidName", "metadata.namespace"},
			text: change(func(o *corev1.Service) { o.Namespace = "x; touch /tmp/owned" })},
		{name: "a name with quotes", says: []string{"reason=InvalidName", "metadata.name"},
			text: change(func(o *corev1.Service) { o.Name = `web"; -j ACCEPT` })},
		{name: "a port name with a newline", says: []string{"reason=InvalidPort", "default/web-22", "spec.ports[0].name"},
			text: change(func(o *corev1.Service) { o.Spec.Ports[0].Name = "x\n-A FORWARD -j ACCEPT\n" })},
		{name: "an endpoint that is its Service", text: endpointAt(ip.V4.String(), ip.V6.String())},
		{name: "an endpoint at loopback", works: at(ip, 80), text: endpointAt("127.0.0.1", "::1"),
			says: []string{"reason=InvalidAddress", "default/web-22-0", "endpoints[0].addresses[0]", "127.0.0.1"}},
		{name: "an endpoint at link-local", works: at(ip, 80), text: endpointAt("169.254.169.254", "fe80::1"),
			says: []string{"reason=InvalidAddress", "default/web-22-0", "169.254.169.254"}},
	}
}

// ownAddress is a Service at the address of n1, with ports that programs of the
// node use.
func ownAddress() string {
	f := plain(22)
	f.port, f.external = 22, []string{netns.NodeAddr(1).V4.String(), netns.NodeAddr(1).V6.String()}
	kubelet := f
	kubelet.name, kubelet.ip, kubelet.port = "kubelet", clusterIP(24), 10250
	return manifest(f) + manifest(kubelet)
}

// nested is a Service with external IPs each of which shares one more bit with
// all that follow: the deepest tree of prefixes there is.
func nested(i int) (fixture, []netip.AddrPort) {
	deep := plain(i)
	var addrs []netip.AddrPort
	add := func(a netip.Addr) {
		deep.external = append(deep.external, a.String())
		addrs = append(addrs, netip.AddrPortFrom(a, deep.port))
	}
	for bit := 28; bit < 128; bit++ {
		a := netip.MustParseAddr("2001:db8::").As16()
		a[bit/8] |= 0x80 >> (bit % 8)
		add(netip.AddrFrom16(a))
	}
	for bit := 8; bit < 32; bit++ {
		a := [4]byte{9, 0, 0, 0}
		a[bit/8] |= 0x80 >> (bit % 8)
		add(netip.AddrFrom4(a))
	}
	return deep, addrs
}

// tooMuch are objects that are right, but large.
func tooMuch() []hostile {
	deep, addrs := nested(22)
	wide := plain(22)
	wide.endpoints = nil
	for i := range 5000 {
		v6 := netip.MustParseAddr("fd00:10:244:99::").As16()
		v6[14], v6[15] = byte(i>>8), byte(i)
		wide.endpoints = append(wide.endpoints, endpoint{pod: netns.Dual{
			V4: netip.AddrFrom4([4]byte{10, 199, byte(i >> 8), byte(i)}), V6: netip.AddrFrom16(v6),
		}})
	}
	return []hostile{
		{name: "100 nested prefixes", text: manifest(deep), works: append(at(clusterIP(22), 80), addrs...)},
		{name: "5000 endpoints", text: manifest(wide)},
	}
}

// TestFaultHostile puts what nobody should write beside what is good, which must
// stay in force throughout.
func TestFaultHostile(t *testing.T) { eachVariant(t, faultHostile) }

func faultHostile(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	b.begin(t, web(1, 2, 3))
	foreign := b.save(t).foreign
	p := b.hammer(t, 20*time.Millisecond, append(both(b.Client, clusterIP(1), 80), both(b.Client, netns.NodeAddr(1), 30001)...)...)
	for _, list := range [][]hostile{brokenFiles(), brokenValues(), tooMuch()} {
		for _, h := range list {
			b.inflict(t, h)
			if p.failed() > 0 {
				t.Fatalf("%s: the good Service has suffered", h.name)
			}
		}
	}
	b.heal(t)
	p.finish(t, 50)
	b.wantAsFresh(t) // that waits for drains
	if d := cmp.Diff(b.save(t).foreign, foreign); d != "" {
		t.Errorf("rules of others have changed (-got +want):\n%s", d)
	}
}

// inflict replaces the hostile file.
func (b *bed) inflict(t *testing.T, h hostile) {
	t.Helper()
	said := len(b.proxy.Output())
	b.write(t, h.text)
	start := time.Now()
	b.apply(t, web(1, 2, 3))
	if took := time.Since(start); took > time.Second {
		t.Logf("%s: in force after %v", h.name, took.Round(10*time.Millisecond))
	}
	for _, x := range h.works {
		if r := probe(t, b.N1.NS, x); r.Class != netns.Reply {
			t.Errorf("%s: %v: %v", h.name, x, r)
		}
	}
	for _, x := range h.not {
		if r := probe(t, b.N1.NS, x); r.Class == netns.Reply {
			t.Errorf("%s: %v: %v", h.name, x, r)
		}
	}
	if len(h.says) == 0 {
		return
	}
	within(t, 5*time.Second, func() error {
		news := b.proxy.Output()[said:]
		for line := range strings.Lines(news) {
			if containsAll(line, h.says) {
				return nil
			}
		}
		return fmt.Errorf("%s: no line says %q:\n%s", h.name, h.says, news)
	})
}

func containsAll(line string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(line, part) {
			return false
		}
	}
	return true
}

// write replaces the hostile file as an editor does.
func (b *bed) write(t *testing.T, text string) {
	t.Helper()
	tmp := filepath.Join(b.dir, ".hostile")
	err := os.WriteFile(tmp, []byte(text), 0o600)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(b.dir, file))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// heal repairs one document and then removes the file: everything must be as if
// it had never been there.
func (b *bed) heal(t *testing.T) {
	t.Helper()
	b.inflict(t, hostile{name: "broken before it heals", text: manifest(plain(21)) + "---\n{\n", says: []string{"error in a manifest"}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	b.inflict(t, hostile{name: "healed", text: manifest(plain(21)) + manifest(plain(22)),
		works: append(at(clusterIP(21), 80), at(clusterIP(22), 80)...)})
	if err := b.proxy.WaitOutput(ctx, "all manifests can be read again"); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(b.dir, file)); err != nil {
		t.Fatal(err)
	}
	b.apply(t, web(1, 2, 3))
	for _, x := range append(at(clusterIP(21), 80), at(clusterIP(22), 80)...) {
		if r := probe(t, b.N1.NS, x); r.Class == netns.Reply {
			t.Errorf("after the file has gone: %v: %v", x, r)
		}
	}
}
