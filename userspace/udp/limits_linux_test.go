package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// TestManySessions has 10,000 sessions at once, then none, and descriptors back.
func TestManySessions(t *testing.T) {
	const listeners, clients = 50, 200
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < listeners*clients+1000 {
		t.Skipf("needs %d descriptors, has %d: %v", listeners*clients+1000, limit.Cur, err)
	}
	at, _ := echo(t, local(false), "")
	cfg := Config{IdleTimeout: time.Minute, MaxSessions: listeners * clients}
	for range listeners {
		cfg.Listeners = append(cfg.Listeners, Listener{Addr: local(false)})
	}
	d := &desk{choose: to(at)}
	e := serve(t, cfg, d)
	var conns []*net.UDPConn
	for range clients {
		conns = append(conns, socket(t, local(false)))
	}
	for range 2 {
		for i, c := range conns {
			for _, a := range e.Addrs() {
				if got, want := ask(t, c, a, fmt.Sprint(i)), fmt.Sprint(i); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
			}
		}
	}
	s := e.Stats()
	if s.Sessions != listeners*clients || s.Opened != listeners*clients {
		t.Errorf("got %+v", s)
	}
	start := time.Now()
	if got := e.EndFrontends(func(a netip.AddrPort) bool { return a != e.Addrs()[0] }); got != (listeners-1)*clients {
		t.Errorf("ended %d", got)
	}
	t.Logf("ending them took %v", time.Since(start))
	e.Retarget(at, nil)
	if got := e.Stats().Sessions; got != 0 {
		t.Errorf("%d sessions left", got)
	}
	for _, w := range e.workers {
		w.mu.Lock()
		if len(w.slots)+len(w.endpoints) > 0 {
			t.Errorf("%d slots and %d endpoints are remembered for nobody", len(w.slots), len(w.endpoints))
		}
		w.mu.Unlock()
	}
}

// TestManyIdle has more sessions end at one time than are ended at a time, with a
// client that goes on.
func TestManyIdle(t *testing.T) {
	mute, at := addrOf(socket(t, local(false))), netip.AddrPort{}
	cfg := Config{Workers: 1, IdleTimeout: 10 * time.Second, NewTimeout: 500 * time.Millisecond}
	for range 20 {
		cfg.Listeners = append(cfg.Listeners, Listener{Addr: local(false)})
	}
	at, _ = echo(t, local(false), "")
	d := &desk{choose: to(mute)}
	e := serve(t, cfg, d)
	const clients = 40
	for range clients {
		c := socket(t, local(false))
		for _, a := range e.Addrs() {
			send(t, c, a, "x")
		}
	}
	want := len(e.Addrs()) * clients
	await(t, "the sessions", func() bool { return e.Stats().Opened == uint64(want) })
	if want < 3*maxExpired {
		t.Errorf("%d sessions are too few", want)
	}
	d.set(to(at))
	busy := socket(t, local(false))
	for e.Stats().Closed[Idle] < uint64(want) {
		if got := ask(t, busy, e.Addrs()[0], "y"); got != "y" {
			t.Fatalf("got %s", got)
		}
	}
	if got := e.Stats().Sessions; got != 1 {
		t.Errorf("%d sessions, want 1", got)
	}
}

// TestCap fills the table: as long as nobody is idle the new client is dropped,
// then the one that was idle longest makes room.
func TestCap(t *testing.T) {
	at, _ := echo(t, local(false), "")
	d := &desk{choose: to(at)}
	e := serve(t, Config{Workers: 1, MaxSessions: 3, EvictAfter: time.Second}, d)
	var conns []*net.UDPConn
	for range 3 {
		c := socket(t, local(false))
		ask(t, c, e.Addrs()[0], "x")
		conns = append(conns, c)
	}
	fourth := socket(t, local(false))
	for n := uint64(0); e.Stats().Closed[Evicted] == 0; n++ {
		if d := e.Stats().Dropped[TooMany]; d != n {
			t.Fatalf("%d dropped, want %d", d, n)
		}
		for _, i := range []int{0, 2} { // the second one is idle
			ask(t, conns[i], e.Addrs()[0], "x")
		}
		send(t, fourth, e.Addrs()[0], "x")
		await(t, "the verdict", func() bool {
			s := e.Stats()
			return s.Dropped[TooMany] == n+1 || s.Closed[Evicted] == 1
		})
		if n > 10000 {
			t.Fatal("nobody makes room")
		}
		time.Sleep(10 * time.Millisecond) // the rate of the clients
	}
	if e.Stats().Dropped[TooMany] == 0 {
		t.Error("evicted at once")
	}
	receive(t, fourth, e.Addrs()[0])
	if got := e.Stats(); got.Sessions != 3 {
		t.Errorf("%d sessions, want 3", got.Sessions)
	}
	for _, i := range []int{0, 2} {
		ask(t, conns[i], e.Addrs()[0], "x")
	}
	if got := e.Stats().Opened; got != 4 {
		t.Errorf("%d opened, want 4: another than the idle one was evicted", got)
	}
}

// child runs the test alone in a process of its own, and reports whether this is
// not that process.
func child(t *testing.T, attr *syscall.SysProcAttr) bool {
	t.Helper()
	const variable = "FAIRLEAD_UDP_CHILD"
	if os.Getenv(variable) == t.Name() {
		return false
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Fatalf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("%s", out)
	case !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Fatalf("did not run:\n%s", out)
	}
	t.Logf("%s", out)
	return true
}

// TestNoDescriptors has more clients than descriptors: they are dropped and
// counted, those that are served go on, and it recovers.
func TestNoDescriptors(t *testing.T) {
	if child(t, nil) {
		return
	}
	at, _ := echo(t, local(false), "")
	d := &desk{choose: to(at)}
	e := serve(t, Config{Workers: 1, EvictAfter: time.Second, MaxSessions: 1000}, d)
	var conns []*net.UDPConn
	for range 30 {
		conns = append(conns, socket(t, local(false)))
	}
	ask(t, conns[0], e.Addrs()[0], "x")
	// The next descriptors are few. What is in use already stays so.
	used := descriptors(t)
	limit := unix.Rlimit{Cur: uint64(used + 5), Max: uint64(used + 5)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns[1:] {
		send(t, c, e.Addrs()[0], "x")
		ask(t, conns[0], e.Addrs()[0], "x")
	}
	s := e.Stats()
	if s.Dropped[NoDescriptors] == 0 || s.Sessions > 10 || s.Dropped[NoDescriptors]+s.Opened < 30 {
		t.Fatalf("got %+v", s)
	}
	for e.Stats().Closed[Evicted] == 0 {
		ask(t, conns[0], e.Addrs()[0], "x")
		send(t, conns[29], e.Addrs()[0], "x")
		time.Sleep(10 * time.Millisecond) // the rate of the clients
	}
	receive(t, conns[29], e.Addrs()[0])
	if got := ask(t, conns[0], e.Addrs()[0], "still here"); got != "still here" {
		t.Errorf("got %s", got)
	}
}

func TestValidate(t *testing.T) {
	err := Config{
		Listeners: []Listener{{Origin: 9}}, Workers: -1, MaxSessions: -1, Attempts: -1,
		IdleTimeout: -1, NewTimeout: -1, EvictAfter: -1, ReceiveBuffer: -1,
	}.Validate()
	for _, field := range []string{
		"Handler", "Listeners[0].Addr", "Listeners[0].Origin", "Workers", "MaxSessions", "Attempts",
		"IdleTimeout", "NewTimeout", "EvictAfter", "ReceiveBuffer",
	} {
		if err == nil || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s is not in %v", field, err)
		}
	}
	ok := Config{Handler: &desk{}, Listeners: []Listener{{Addr: local(false), Origin: service.FromOutside}}}
	if err := ok.Validate(); err != nil {
		t.Error(err)
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("Open takes what Validate does not")
	}
}

func TestOpenFails(t *testing.T) {
	before := descriptors(t)
	taken := socket(t, local(false))
	_, err := Open(Config{Handler: &desk{}, Listeners: []Listener{{Addr: local(true)}, {Addr: addrOf(taken)}}})
	if !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("got %v, want address in use", err)
	}
	if got := descriptors(t); got != before+1 {
		t.Errorf("%d descriptors, want %d", got, before+1)
	}
	e, err := Open(Config{Handler: &desk{}, Listeners: []Listener{{Addr: local(true)}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if got := descriptors(t); got != before+1 {
		t.Errorf("%d descriptors after Close, want %d", got, before+1)
	}
}
