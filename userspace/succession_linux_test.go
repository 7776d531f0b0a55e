package userspace

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace/handover"
)

// alone runs the rest of a test in a network namespace of its own, where the name of
// the socket is free. It reports whether this is there.
func alone(t *testing.T) bool {
	t.Helper()
	const inside = "USERSPACE_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v:\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

// A reign is a Proxy that runs.
type reign struct {
	*Proxy
	stop func()
}

// begin runs a Proxy that serves its own listener for others, at endpoints.
func begin(t *testing.T, endpoints ...netip.AddrPort) *reign {
	t.Helper()
	cfg := ProxyConfig{Config: DefaultConfig()}
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Families = []service.Family{service.IPv4}
	p, err := NewProxy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var pool service.Pool
	for _, a := range endpoints {
		pool = append(pool, service.Endpoint{Addr: a})
	}
	at := cfg.Listen(service.IPv4, service.FromOutside)
	port := &service.Port{ID: service.PortID{Service: service.Name{Namespace: "default", Name: "web"}}, Serving: pool}
	fe := service.Frontend{Addr: at}
	for o := range fe.Routes {
		fe.Routes[o] = service.Route{Verdict: service.Forward, Pool: pool, Masquerade: true}
	}
	port.Frontends = []service.Frontend{fe}
	p.Follow(&service.Node{Name: "n1"}, []PortChange{{New: port}}, []PlaceChange{{Place{service.TCP, at}, port, &port.Frontends[0]}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return &reign{p, stop}
}

// TestSuccession has one Proxy after another take over many connections: 500, or as
// many as USERSPACE_TEST_CONNS says.
func TestSuccession(t *testing.T) {
	if !alone(t) {
		return
	}
	conns := 500
	if n, err := strconv.Atoi(os.Getenv("USERSPACE_TEST_CONNS")); err == nil {
		conns = n
		all := uint64(8*n + 1000)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: all, Max: all}); err != nil {
			t.Logf("the limit of descriptors stays as it is: %v", err)
		}
	}
	var endpoints []netip.AddrPort
	for i := range 4 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.1.%d:80", i+1))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		endpoints = append(endpoints, l.Addr().(*net.TCPAddr).AddrPort())
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				go func() { _, _ = io.Copy(c, struct{ io.Reader }{c}); c.Close() }()
			}
		}()
	}
	first := begin(t, endpoints...)
	clients := make([]net.Conn, conns)
	for i := range clients {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(1+i/10000))}, Timeout: 20 * time.Second}
		c, err := d.Dial("tcp", DefaultConfig().Listen(service.IPv4, service.FromOutside).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients[i] = c
	}
	answered(t, clients, "with the first")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	second := begin(t, endpoints...)
	select {
	case <-first.succession.passed:
	case <-time.After(time.Minute):
		t.Fatal("not handed over")
	}
	runtime.ReadMemStats(&after)
	t.Logf("%d connections handed over in %v, allocating %d KiB", conns, time.Since(start).Round(time.Millisecond), (after.TotalAlloc-before.TotalAlloc)>>10)
	all := func() bool { return second.Counts().Taken == float64(conns) }
	if !waitFor(first.Done) || !waitFor(all) || first.Counts().Given != float64(conns) {
		t.Errorf("given %v, taken %v, want %d", first.Counts().Given, second.Counts().Taken, conns)
	}
	first.stop()
	answered(t, clients, "with the second")
	s := second.stateOf(service.PortID{Service: service.Name{Namespace: "default", Name: "web"}})
	if n := s.balancer().Stats().Active; n != int64(conns) {
		t.Errorf("%d connections are counted at endpoints, want %d", n, conns)
	}

	// Those of an endpoint that is gone when the third begins are reset, the others stay.
	third := begin(t, endpoints[1:]...)
	if !waitFor(second.Done) {
		t.Error("the second still has something")
	}
	second.stop()
	if !waitFor(func() bool { return third.Counts().Connections == float64(conns-conns/4) }) {
		t.Errorf("%v connections, want those of three endpoints", third.Counts().Connections)
	}
}

func answered(t *testing.T, clients []net.Conn, when string) {
	t.Helper()
	for i, c := range clients {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err := io.WriteString(c, when)
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, len(when)))
		}
		if err != nil {
			t.Fatalf("%s: connection %d: %v", when, i, err)
		}
	}
}

func waitFor(ok func() bool) bool {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

// TestSuccessionFails has successors that do not get far: the Proxy goes on as if
// there had been none.
func TestSuccessionFails(t *testing.T) {
	if !alone(t) {
		return
	}
	l, err := net.Listen("tcp", "127.0.1.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() { _, _ = io.Copy(c, struct{ io.Reader }{c}); c.Close() }()
		}
	}()
	p := begin(t, l.Addr().(*net.TCPAddr).AddrPort())
	c, err := net.Dial("tcp", DefaultConfig().Listen(service.IPv4, service.FromOutside).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answered(t, []net.Conn{c}, "at first")
	for range 3 { // they get the listeners, and end
		var e *estate
		if !waitFor(func() bool { e, err = inherit(); return e != nil }) {
			t.Fatal(err)
		}
		if len(e.tcp) != 3 || len(e.udp) < 3 {
			t.Errorf("%d and %d listeners", len(e.tcp), len(e.udp))
		}
		e.close()
	}
	answered(t, []net.Conn{c}, "after those that only looked")
	e, err := inherit()
	if err != nil {
		t.Fatal(err)
	}
	e.rest()
	if err := e.conn.Send(request{Take: true, Version: successionVersion}, nil); err != nil {
		t.Fatal(err)
	}
	for { // it takes all that comes before connections, and dies
		var what parcel
		fds, err := e.conn.Receive(&what)
		if err != nil {
			t.Fatal(err)
		}
		handover.CloseAll(fds)
		if len(what.Conns) > 0 {
			break
		}
		if err := e.conn.Send(request{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	e.conn.Close()
	<-p.succession.passed
	answered(t, []net.Conn{c}, "after one that has died")
	if p.Done() || p.Counts().Given != 0 {
		t.Errorf("done: %t, given: %v", p.Done(), p.Counts().Given)
	}
}
