package udp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A desk is a Handler whose targets the test sets. Leases are the addresses of
// targets.
type desk struct {
	mu       sync.Mutex
	choose   func(Flow, any) (Target, bool)
	open     int // leases
	answered int
	results  []Result
}

func to(a netip.AddrPort) func(Flow, any) (Target, bool) {
	return func(Flow, any) (Target, bool) { return Target{Addr: a, Lease: a}, true }
}

func (d *desk) set(choose func(Flow, any) (Target, bool)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.choose = choose
}

func (d *desk) Target(f Flow, failed any) (Target, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, ok := d.choose(f, failed)
	if ok {
		d.open++
	}
	return t, ok
}

func (d *desk) Answered(any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answered++
}

func (d *desk) Closed(lease any, r Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	d.results = append(d.results, r)
	if lease == nil {
		panic("a nil Lease is closed")
	}
}

// result waits for the nth Result.
func (d *desk) result(t testing.TB, n int) Result {
	t.Helper()
	var r Result
	await(t, fmt.Sprintf("%d results", n), func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.results) < n {
			return false
		}
		r = d.results[n-1]
		return true
	})
	return r
}

// await waits until ok says so.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func local(v6 bool) netip.AddrPort {
	if v6 {
		return netip.MustParseAddrPort("[::1]:0")
	}
	return netip.MustParseAddrPort("127.0.0.1:0")
}

// serve starts an Engine and ends it with the test, and checks that it leaves
// nothing behind.
func serve(t testing.TB, cfg Config, d *desk) *Engine {
	t.Helper()
	fds, routines := descriptors(t), runtime.NumGoroutine()
	cfg.Handler = d
	if cfg.Listeners == nil {
		cfg.Listeners = []Listener{{Addr: local(false), Origin: service.FromOutside}}
	}
	e, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if got := e.Stats().Sessions; got != 0 || e.sessions.Load() != 0 {
			t.Errorf("%d sessions after the end, counted as %d", got, e.sessions.Load())
		}
		if d.open != 0 {
			t.Errorf("%d leases not closed", d.open)
		}
		await(t, fmt.Sprintf("%d goroutines and %d descriptors", routines, fds), func() bool {
			return runtime.NumGoroutine() <= routines && descriptors(t) <= fds
		})
	})
	return e
}

func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// socket returns a socket at a, closed before what was set up earlier.
func socket(t testing.TB, a netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // maybe closed already
	return c
}

func addrOf(c *net.UDPConn) netip.AddrPort {
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// echo answers every datagram with name and what it got.
func echo(t testing.TB, a netip.AddrPort, name string) (netip.AddrPort, *net.UDPConn) {
	t.Helper()
	c := socket(t, a)
	_ = c.SetReadBuffer(4 << 20)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf[len(name):])
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				copy(buf, name)
				_, _ = c.WriteToUDPAddrPort(buf[:len(name)+n], from) // may be gone
			}
		}
	})
	t.Cleanup(func() {
		_ = c.Close()
		wg.Wait()
	})
	return addrOf(c), c
}

func send(t testing.TB, c *net.UDPConn, to netip.AddrPort, data string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(data), to); err != nil {
		t.Fatal(err)
	}
}

// receive returns what c receives next, which must be from there.
func receive(t testing.TB, c *net.UDPConn, from netip.AddrPort) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	n, got, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	if got = netip.AddrPortFrom(got.Addr().Unmap(), got.Port()); got != from {
		t.Errorf("answer from %v, want %v", got, from)
	}
	return string(buf[:n])
}

func ask(t testing.TB, c *net.UDPConn, to netip.AddrPort, data string) string {
	t.Helper()
	send(t, c, to, data)
	return receive(t, c, to)
}

func TestDatagrams(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		at, _ := echo(t, local(v6), "")
		d := &desk{choose: to(at)}
		e := serve(t, Config{Listeners: []Listener{{Addr: local(v6), Origin: service.FromPod}}}, d)
		c := socket(t, local(v6))
		sizes := []int{0, 1, 1400, 9000, 65507}
		if v6 {
			sizes = append(sizes, 65527)
		}
		var want Traffic
		for _, n := range sizes {
			data := string(bytes.Repeat([]byte{byte(n), 'x', 'y'}, n/3+1)[:n])
			if got := ask(t, c, e.Addrs()[0], data); got != data {
				t.Errorf("IPv6 %v: %d bytes: got %d back, or others", v6, n, len(got))
			}
			want.add(Traffic{1, uint64(n)})
		}
		s := e.Stats()
		if s.In != want || s.Out != want || s.Sessions != 1 || s.Opened != 1 || s.Dropped != [NumDrops]uint64{} {
			t.Errorf("IPv6 %v: got %+v, want %+v each way", v6, s, want)
		}
		d.mu.Lock()
		if d.answered != 1 {
			t.Errorf("IPv6 %v: told %d times of an answer, want once", v6, d.answered)
		}
		d.mu.Unlock()
		e.Retarget(at, nil)
		if got := d.result(t, 1); got != (Result{Moved, true, want, want}) {
			t.Errorf("IPv6 %v: got %+v", v6, got)
		}
	}
}

// TestOrder sends bursts of several clients at once: each gets its answers, all of
// them, and in order.
func TestOrder(t *testing.T) {
	at, _ := echo(t, local(false), "")
	e := serve(t, Config{}, &desk{choose: to(at)})
	var wg sync.WaitGroup
	for range 8 {
		c := socket(t, local(false))
		wg.Go(func() {
			for burst := range 20 {
				for i := range 20 {
					send(t, c, e.Addrs()[0], fmt.Sprint(burst, i))
				}
				for i := range 20 {
					if got, want := receive(t, c, e.Addrs()[0]), fmt.Sprint(burst, i); got != want {
						t.Errorf("got %s, want %s", got, want)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if got := e.Stats().Dropped; got != [NumDrops]uint64{} {
		t.Errorf("dropped: %v", got)
	}
}

// TestRefused has an endpoint that nobody listens at: the session goes on at
// another, and only what was refused is lost.
func TestRefused(t *testing.T) {
	at, _ := echo(t, local(false), "b")
	dead := socket(t, local(false))
	deadAt := addrOf(dead)
	_ = dead.Close()
	d := &desk{choose: func(_ Flow, failed any) (Target, bool) {
		if failed == deadAt {
			return Target{Addr: at, Lease: at}, true
		}
		return Target{Addr: deadAt, Lease: deadAt}, true
	}}
	e := serve(t, Config{}, d)
	c := socket(t, local(false))
	send(t, c, e.Addrs()[0], "1")
	if got := d.result(t, 1); got != (Result{Failed, false, Traffic{1, 1}, Traffic{}}) {
		t.Errorf("got %+v", got)
	}
	if got := ask(t, c, e.Addrs()[0], "2"); got != "b2" {
		t.Errorf("got %s", got)
	}
	if s := e.Stats(); s.Sessions != 1 || s.Opened != 1 {
		t.Errorf("got %+v", s)
	}
	// Nobody else: the session ends, and the next datagram begins anew.
	c = socket(t, local(false))
	d.set(func(_ Flow, failed any) (Target, bool) {
		return Target{Addr: deadAt, Lease: deadAt}, failed == nil
	})
	send(t, c, e.Addrs()[0], "1")
	d.result(t, 2)
	send(t, c, e.Addrs()[0], "2")
	await(t, "the drop", func() bool { return e.Stats().Dropped[Unreachable] == 1 })
	send(t, c, e.Addrs()[0], "3")
	d.result(t, 3)
}

// TestUnreachable has endpoints that connect fails for at once. As many are tried
// as may be.
func TestUnreachable(t *testing.T) {
	nowhere := netip.MustParseAddrPort("255.255.255.255:9") // EACCES: a broadcast
	d := &desk{choose: to(nowhere)}
	e := serve(t, Config{Attempts: 3}, d)
	c := socket(t, local(false))
	send(t, c, e.Addrs()[0], "1")
	await(t, "the drop", func() bool { return e.Stats().Dropped[Unreachable] == 1 })
	if got := e.Stats().Closed[Failed]; got != 3 {
		t.Errorf("%d endpoints tried, want 3", got)
	}
	at, _ := echo(t, local(false), "ok")
	d.set(func(_ Flow, failed any) (Target, bool) {
		if failed == nil {
			t.Error("not told of the failure")
		}
		return Target{Addr: at, Lease: at}, true
	})
	if got := ask(t, c, e.Addrs()[0], ""); got != "ok" {
		t.Errorf("got %s", got)
	}
}

func TestNoTarget(t *testing.T) {
	d := &desk{choose: func(Flow, any) (Target, bool) { return Target{}, false }}
	e := serve(t, Config{}, d)
	send(t, socket(t, local(false)), e.Addrs()[0], "1")
	await(t, "the drop", func() bool { return e.Stats().Dropped[NoTarget] == 1 })
	if got := e.Stats().Sessions; got != 0 {
		t.Errorf("%d sessions", got)
	}
}

func TestIdle(t *testing.T) {
	at, _ := echo(t, local(false), "")
	mute := addrOf(socket(t, local(false)))
	d := &desk{choose: to(at)}
	e := serve(t, Config{IdleTimeout: time.Second, NewTimeout: 250 * time.Millisecond}, d)
	busy, once, unheard := socket(t, local(false)), socket(t, local(false)), socket(t, local(false))
	start := time.Now()
	ask(t, busy, e.Addrs()[0], "x")
	ask(t, once, e.Addrs()[0], "x")
	d.set(to(mute))
	send(t, unheard, e.Addrs()[0], "x")
	if got := d.result(t, 1); got.Reason != Idle || got.Answered || time.Since(start) < 250*time.Millisecond {
		t.Errorf("after %v: %+v", time.Since(start), got)
	}
	for e.Stats().Closed[Idle] < 2 {
		if time.Since(start) > 10*time.Second {
			t.Fatal("the idle session does not end")
		}
		ask(t, busy, e.Addrs()[0], "x")
		time.Sleep(20 * time.Millisecond) // the rate of the busy one
	}
	if got := d.result(t, 2); !got.Answered || got.In.Datagrams != 1 || time.Since(start) < time.Second {
		t.Errorf("after %v: %+v, want the one that called once", time.Since(start), got)
	}
	if got := e.Stats(); got.Sessions != 1 || got.Opened != 3 {
		t.Errorf("got %+v, want the busy session alone", got)
	}
}

// insist asks until there is an answer: a datagram that is on its way to an endpoint
// when its session moves is lost.
func insist(t testing.TB, c *net.UDPConn, to netip.AddrPort, data string) string {
	t.Helper()
	buf := make([]byte, 100)
	for range 200 {
		send(t, c, to, data)
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		for {
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			if got := string(buf[:n]); strings.HasSuffix(got, data) { // else of an earlier one
				return got
			}
		}
	}
	t.Error("no answer")
	return ""
}

// TestRetarget moves sessions while datagrams fly, there and back: what is asked
// after Retarget has returned is answered by the other endpoint.
func TestRetarget(t *testing.T) {
	a, _ := echo(t, local(false), "a")
	b, _ := echo(t, local(false), "b")
	d := &desk{choose: to(a)}
	e := serve(t, Config{}, d)
	front := e.Addrs()[0]
	var wg sync.WaitGroup
	var round, asked atomic.Int64 // round is odd during a move
	for range 20 {
		c := socket(t, local(false))
		wg.Go(func() {
			for i := 0; ; i++ {
				before := round.Load()
				got := insist(t, c, front, fmt.Sprint(" ", i))
				asked.Add(1)
				after := round.Load()
				want := fmt.Sprintf("%c %d", "ab"[before/2%2], i)
				if before == after && before%2 == 0 && got != want {
					t.Errorf("got %q, want %q", got, want)
				}
				if before == 12 || t.Failed() {
					return
				}
			}
		})
	}
	for i := range 6 {
		n := asked.Load()
		await(t, "traffic", func() bool { return asked.Load() > n+100 || t.Failed() })
		from, other := a, b
		if i%2 == 1 {
			from, other = b, a
		}
		round.Add(1)
		d.set(to(other))
		if got := e.Retarget(from, func(f Flow) bool { return f.Frontend != front }); got != 0 {
			t.Errorf("moved %d of other frontends", got)
		}
		e.Retarget(from, func(f Flow) bool { return f.Frontend == front })
		round.Add(1)
	}
	wg.Wait()
}

// TestLateAnswer has the old endpoint answer after its session was moved.
func TestLateAnswer(t *testing.T) {
	old := socket(t, local(false))
	b, _ := echo(t, local(false), "b")
	d := &desk{choose: to(addrOf(old))}
	e := serve(t, Config{}, d)
	c := socket(t, local(false))
	send(t, c, e.Addrs()[0], "x")
	_ = old.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, proxy, err := old.ReadFromUDPAddrPort(make([]byte, 10))
	if err != nil {
		t.Fatal(err)
	}
	d.set(to(b))
	if got := e.Retarget(addrOf(old), nil); got != 1 {
		t.Errorf("moved %d, want 1", got)
	}
	send(t, old, proxy, "late")
	if got := ask(t, c, e.Addrs()[0], "y"); got != "by" {
		t.Errorf("got %q", got)
	}
}

func TestEndFrontends(t *testing.T) {
	at, _ := echo(t, local(false), "")
	d := &desk{choose: to(at)}
	e := serve(t, Config{Listeners: []Listener{
		{Addr: local(false)}, {Addr: local(false), Origin: service.FromHost}, {Addr: local(true)},
	}}, d)
	for i, v6 := range []bool{false, false, true} {
		ask(t, socket(t, local(v6)), e.Addrs()[i], "x")
	}
	if got := e.EndFrontends(func(a netip.AddrPort) bool { return a == e.Addrs()[1] }); got != 1 {
		t.Errorf("ended %d, want 1", got)
	}
	if got := d.result(t, 1).Reason; got != Gone {
		t.Errorf("got %v, want gone", got)
	}
	if got := e.Stats().Sessions; got != 2 {
		t.Errorf("%d sessions, want 2", got)
	}
}
