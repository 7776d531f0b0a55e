package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// These tests have a node between clients and endpoints, each in a network
// namespace of its own. They need root, and iptables with TPROXY and socket, and
// are skipped without. With FAIRLEAD_E2E_REQUIRE=1 they fail instead.

func unable(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("FAIRLEAD_E2E_REQUIRE") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// A side is a network namespace at the other end of a veth pair.
type side struct {
	ns netns.NsHandle
}

// do runs what is done in the namespace. Sockets that it makes stay there.
func (s side) do(t testing.TB, what func()) {
	t.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err == nil {
		err = netns.Set(s.ns)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(netns.Set(home), home.Close()); err != nil {
			t.Error(err)
			return // the thread stays locked and ends with the test
		}
		runtime.UnlockOSThread()
	}()
	what()
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// newSide makes a namespace with these addresses, whose default route is the
// process's own namespace.
func newSide(t testing.TB, name string, v4, v6, gateway4, gateway6 string) side {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	check(t, err)
	away, err := netns.New()
	check(t, err, netns.Set(home))
	t.Cleanup(func() { check(t, away.Close(), home.Close()) })
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(away)}
	check(t, netlink.LinkAdd(veth))
	setAddrs(t, name, gateway4, gateway6)
	s := side{away}
	s.do(t, func() {
		setAddrs(t, "lo")
		setAddrs(t, "eth0", v4, v6)
		for _, gw := range []string{gateway4, gateway6} {
			ip, _, err := net.ParseCIDR(gw)
			check(t, err, netlink.RouteAdd(&netlink.Route{Gw: ip}))
		}
	})
	return s
}

func setAddrs(t testing.TB, name string, addrs ...string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	check(t, err)
	for _, a := range addrs {
		parsed, err := netlink.ParseAddr(a)
		check(t, err)
		parsed.Flags = unix.IFA_F_NODAD
		check(t, netlink.AddrAdd(l, parsed))
	}
	check(t, netlink.LinkSetUp(l))
}

// intercept has TPROXY hand what is sent to Services to the listeners, and what
// answers the sockets with addresses of clients to these.
func intercept(t testing.TB, port4, port6 uint16) {
	t.Helper()
	for _, f := range []struct {
		tool, icmp, network string
		family              int
		all                 string
		port                uint16
	}{
		{"iptables", "icmp", "10.96.0.0/16", unix.AF_INET, "0.0.0.0/0", port4},
		{"ip6tables", "icmpv6", "fd00:10:96::/112", unix.AF_INET6, "::/0", port6},
	} {
		for _, rule := range []string{
			"-p udp -m socket --transparent -j MARK --set-mark 1",
			"-p udp -m socket --transparent -j ACCEPT",
			"-p " + f.icmp + " -m socket --transparent -j MARK --set-mark 1",
			"-p udp -d " + f.network + " -j TPROXY --tproxy-mark 1 --on-port " + fmt.Sprint(f.port),
		} {
			args := append([]string{"-w", "-t", "mangle", "-A", "PREROUTING"}, strings.Fields(rule)...)
			if out, err := exec.CommandContext(t.Context(), f.tool, args...).CombinedOutput(); err != nil {
				unable(t, "%s %s: %v: %s", f.tool, rule, err, out)
			}
		}
		lo, err := netlink.LinkByName("lo")
		check(t, err)
		_, all, err := net.ParseCIDR(f.all)
		check(t, err)
		check(t, netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: all, Table: 100, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
		}))
		rule := netlink.NewRule()
		rule.Family, rule.Mark, rule.Table = f.family, 1, 100
		check(t, netlink.RuleAdd(rule))
	}
}

// A lab is a node with an Engine, a side of clients and one of endpoints.
type lab struct {
	*Engine
	desk               *desk
	clients, endpoints side
}

// newLab is for a process that has its network to itself.
func newLab(t *testing.T, cfg Config) lab {
	t.Helper()
	setAddrs(t, "lo")
	for _, s := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		check(t, os.WriteFile("/proc/sys/net/"+s, []byte("1"), 0))
	}
	l := lab{desk: &desk{choose: func(Flow, any) (Target, bool) { return Target{}, false }}}
	l.clients = newSide(t, "clients", "198.51.100.1/24", "2001:db8:51::1/64", "198.51.100.254/24", "2001:db8:51::fe/64")
	l.endpoints = newSide(t, "endpoints", "10.244.1.2/24", "fd00:10:244:1::2/64", "10.244.1.1/24", "fd00:10:244:1::1/64")
	cfg.Transparent, cfg.Mark = true, 2
	cfg.Listeners = []Listener{
		{Addr: netip.MustParseAddrPort("0.0.0.0:0"), Origin: service.FromOutside},
		{Addr: netip.MustParseAddrPort("[::]:0"), Origin: service.FromOutside},
	}
	l.Engine = serve(t, cfg, l.desk)
	intercept(t, l.Addrs()[0].Port(), l.Addrs()[1].Port())
	return l
}

// at returns a socket of the side.
func (s side) at(t testing.TB, addr string) *net.UDPConn {
	var c *net.UDPConn
	s.do(t, func() { c = socket(t, netip.MustParseAddrPort(addr)) })
	return c
}

// peek returns what c received and from whom.
func peek(t testing.TB, c *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1<<16)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// TestTransparent has clients call two frontends of one endpoint that is to see
// them: they keep their address always, and their port with the first. Answers
// come from the frontend, and further datagrams still reach the listener.
func TestTransparent(t *testing.T) {
	if os.Geteuid() != 0 {
		unable(t, "needs root")
	}
	if child(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}) {
		return
	}
	l := newLab(t, Config{})
	// Somebody on the node has port 53 for himself: answers come from there all the same.
	taken := socket(t, netip.MustParseAddrPort("[::]:53"))
	defer func() {
		if err := taken.SetReadDeadline(time.Now()); err != nil {
			t.Error(err)
		}
		if n, _, err := taken.ReadFromUDPAddrPort(make([]byte, 10)); err == nil {
			t.Errorf("the other at the port got %d bytes", n)
		}
	}()
	for _, c := range []struct{ client, endpoint, vip1, vip2, node string }{
		{"198.51.100.1:4000", "10.244.1.2:53", "10.96.0.10:54", "10.96.0.11:54", "10.244.1.1"},
		{"198.51.100.1:4001", "10.244.1.2:54", "10.96.0.10:53", "10.96.0.11:53", "10.244.1.1"},
		{"[2001:db8:51::1]:4000", "[fd00:10:244:1::2]:53", "[fd00:10:96::10]:54", "[fd00:10:96::11]:54", "fd00:10:244:1::1"},
		{"[2001:db8:51::1]:4001", "[fd00:10:244:1::2]:54", "[fd00:10:96::10]:53", "[fd00:10:96::11]:53", "fd00:10:244:1::1"},
	} {
		client, pod := l.clients.at(t, c.client), l.endpoints.at(t, c.endpoint)
		front1, front2 := netip.MustParseAddrPort(c.vip1), netip.MustParseAddrPort(c.vip2)
		exchange := func(front netip.AddrPort, size int) netip.AddrPort {
			t.Helper()
			data := strings.Repeat("x", size)
			send(t, client, front, data)
			got, from := peek(t, pod)
			if got != data {
				t.Errorf("%d bytes arrived, want %d", len(got), size)
			}
			send(t, pod, from, data+"y"[:min(1, 60000/(size+1))])
			if got := receive(t, client, front); !strings.HasPrefix(got, data) {
				t.Errorf("%d bytes came back, want %d", len(got), size)
			}
			return from
		}
		l.desk.set(func(f Flow, _ any) (Target, bool) {
			if f.Origin != service.FromOutside || f.Client.String() != c.client {
				t.Errorf("called by %+v", f)
			}
			a := netip.MustParseAddrPort(c.endpoint)
			return Target{Addr: a, Source: f.Client, Lease: a}, true
		})
		for _, size := range []int{1, 1400, 65507} {
			if got := exchange(front1, size); got.String() != c.client {
				t.Errorf("the endpoint sees %v, want %s", got, c.client)
			}
		}
		got := exchange(front2, 1)
		if want := netip.MustParseAddrPort(c.client); got.Addr() != want.Addr() || got.Port() == want.Port() {
			t.Errorf("the endpoint sees %v at another frontend, want %v with another port", got, want)
		}
		exchange(front1, 2)
		for _, w := range l.workers {
			w.mu.Lock()
			for a, r := range w.replies {
				if r.raw != (a.Port() == 53) {
					t.Errorf("%v: raw socket: %v", a, r.raw)
				}
			}
			w.mu.Unlock()
		}
		l.desk.set(func(Flow, any) (Target, bool) {
			a := netip.MustParseAddrPort(c.endpoint)
			return Target{Addr: a, Lease: a}, true
		})
		l.EndFrontends(func(a netip.AddrPort) bool { return a == front1 })
		if got := exchange(front1, 1); got.Addr().String() != c.node {
			t.Errorf("without a source the endpoint sees %v, want %s", got, c.node)
		}
		if got := l.Stats(); got.Dropped != [NumDrops]uint64{} || got.Sessions != 2 {
			t.Errorf("got %+v", got)
		}
		if got := l.Retarget(netip.MustParseAddrPort(c.endpoint), nil); got != 2 {
			t.Errorf("%d sessions, want 2", got)
		}
	}
	for _, w := range l.workers {
		w.mu.Lock()
		if len(w.replies) != 0 {
			t.Errorf("%d sockets of frontends left", len(w.replies))
		}
		w.mu.Unlock()
	}
}

// TestTransparentWorkers has many clients at several workers: each stays with one.
func TestTransparentWorkers(t *testing.T) {
	if os.Geteuid() != 0 {
		unable(t, "needs root")
	}
	if child(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}) {
		return
	}
	l := newLab(t, Config{Workers: 3})
	for i, c := range []struct{ client, endpoint, vip string }{
		{"198.51.100.1:0", "10.244.1.2:53", "10.96.0.10:54"},
		{"[2001:db8:51::1]:0", "[fd00:10:244:1::2]:53", "[fd00:10:96::10]:54"},
	} {
		var at netip.AddrPort
		l.endpoints.do(t, func() { at, _ = echo(t, netip.MustParseAddrPort(c.endpoint), "") })
		l.desk.set(func(f Flow, _ any) (Target, bool) {
			return Target{Addr: at, Source: f.Client, Lease: at}, true
		})
		const clients = 50
		var conns []*net.UDPConn
		for range clients {
			conns = append(conns, l.clients.at(t, c.client))
		}
		for round := range 4 {
			for n, conn := range conns {
				if got, want := ask(t, conn, netip.MustParseAddrPort(c.vip), fmt.Sprint(n, round)), fmt.Sprint(n, round); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			}
		}
		if got, want := l.Stats().Opened, uint64(clients*(i+1)); got != want {
			t.Errorf("%d sessions were opened, want %d", got, want)
		}
		for i, w := range l.workers {
			w.mu.Lock()
			if len(w.sessions) == 0 {
				t.Errorf("worker %d has nothing to do", i)
			}
			w.mu.Unlock()
		}
		l.Retarget(at, nil)
	}
}

// TestTransparentRefused has an endpoint refuse a client whose address the socket
// has: the error comes to the Engine.
func TestTransparentRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		unable(t, "needs root")
	}
	if child(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}) {
		return
	}
	l := newLab(t, Config{})
	for i, c := range []struct{ client, dead, endpoint, vip string }{
		{"198.51.100.1:4000", "10.244.1.2:1", "10.244.1.2:53", "10.96.0.10:54"},
		{"[2001:db8:51::1]:4000", "[fd00:10:244:1::2]:1", "[fd00:10:244:1::2]:53", "[fd00:10:96::10]:54"},
	} {
		client, pod := l.clients.at(t, c.client), l.endpoints.at(t, c.endpoint)
		l.desk.set(func(f Flow, failed any) (Target, bool) {
			a := netip.MustParseAddrPort(c.dead)
			if failed != nil {
				a = netip.MustParseAddrPort(c.endpoint)
			}
			return Target{Addr: a, Source: f.Client, Lease: a}, true
		})
		send(t, client, netip.MustParseAddrPort(c.vip), "1")
		if got := l.desk.result(t, i+1); got.Reason != Failed {
			t.Errorf("got %+v", got)
		}
		send(t, client, netip.MustParseAddrPort(c.vip), "2")
		if got, from := peek(t, pod); got != "2" || from.String() != c.client {
			t.Errorf("got %s from %v", got, from)
		}
		l.desk.mu.Lock()
		l.desk.results = l.desk.results[:i+1]
		l.desk.mu.Unlock()
	}
}
