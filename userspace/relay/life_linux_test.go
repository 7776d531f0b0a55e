package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// resources is what must not grow.
func resources(t testing.TB) (goroutines, descriptors int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(list)
}

// TestNoLeak makes many short connections that end in every way there is.
func TestNoLeak(t *testing.T) {
	total := 100_000
	if testing.Short() || raceEnabled {
		total = 3000
	}
	good := serve(t, func(c *net.TCPConn) {
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err == nil && b[0] == 'x' {
			_ = c.SetLinger(0) // a reset
			return
		}
		_, _ = c.Write(b)
	})
	b := &silentBook{Target{Addr: good}}
	e, at := start(t, Config{Handler: b, Workers: 2})
	round := func(n int) {
		var wg sync.WaitGroup
		for g := range 16 {
			wg.Go(func() {
				for i := g; i < n; i += 16 {
					shortLife(t, at, i)
				}
			})
		}
		wg.Wait()
		eventually(t, "all are closed", func() bool { return e.Counters().Active == 0 })
	}
	round(500)
	var goroutines, descriptors int
	settled := func() bool {
		g, d := resources(t)
		ok := g == goroutines && d == descriptors
		goroutines, descriptors = g, d
		return ok
	}
	eventually(t, "it is quiet", settled)
	round(total)
	eventually(t, fmt.Sprintf("as many as before: %d goroutines, %d descriptors", goroutines, descriptors), func() bool {
		g, d := resources(t)
		return g <= goroutines && d <= descriptors
	})
	if n := e.Counters(); n.Accepted != uint64(total+500) || n.Shed != 0 {
		t.Errorf("got %+v", n)
	}
	if err := e.Close(); err != nil { // so that the workers can be looked into
		t.Fatal(err)
	}
	for i, w := range e.workers {
		if used := len(w.conns)*chunk - len(w.free); used != 0 || len(w.due) != 0 || len(w.conns) > 2 {
			t.Errorf("worker %d: %d of %d slots are used, %d deadlines", i, used, len(w.conns)*chunk, len(w.due))
		}
	}
	if n := e.pipes.Load(); n != 0 {
		t.Errorf("%d pipes are left", n)
	}
}

// shortLife makes one connection; kind chooses how it ends.
func shortLife(t *testing.T, at netip.AddrPort, kind int) {
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	text := "hello"
	switch kind % 5 {
	case 0: // never says anything
		return
	case 1: // resets at once
		_ = c.SetLinger(0)
		return
	case 2: // the endpoint resets
		text = "xello"
	case 3: // half-close
		defer func() { _ = c.CloseWrite() }()
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Error(err)
		return
	}
	got, err := io.ReadAll(c)
	if text == "hello" && (string(got) != text || err != nil) {
		t.Errorf("got %q, %v", got, err)
	}
	if text == "xello" && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %q, %v, want a reset", got, err)
	}
}

// TestAbort resets every other connection while all of them are busy.
func TestAbort(t *testing.T) {
	b := &book{targets: []Target{{Addr: serve(t, echo)}}}
	e, at := start(t, Config{Handler: b})
	const conns = 20
	var wg sync.WaitGroup
	stop := make(chan struct{})
	errs := make([]error, conns)
	byClient := make(map[netip.AddrPort]int)
	for i := range conns {
		c := dial(t, at)
		byClient[c.LocalAddr().(*net.TCPAddr).AddrPort()] = i
		wg.Go(func() { errs[i] = busy(c, stop) })
	}
	var handles []Handle
	eventually(t, "all are connected and busy", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		handles = nil
		for _, tr := range b.trips {
			if tr.up {
				handles = append(handles, tr.handle)
			}
		}
		return len(handles) == conns && e.Counters().ToClient > conns*100_000
	})
	aborted := make(map[int]bool)
	for i := 0; i < conns; i += 2 {
		aborted[byClient[b.trips[i].client]] = true
		handles[i].Abort()
		handles[i].Abort() // does no harm
	}
	eventually(t, "half are aborted", func() bool { return e.Counters().Aborted == conns/2 && e.Counters().Active == conns/2 })
	close(stop)
	wg.Wait()
	for i, err := range errs {
		reset := errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
		if aborted[i] != reset || !aborted[i] && err != nil {
			t.Errorf("connection %d: aborted %v, got %v", i, aborted[i], err)
		}
	}
	eventually(t, "all are closed", func() bool { return e.Counters().Active == 0 })
	for i, tr := range b.trips {
		if want := i%2 == 0; errors.Is(tr.stats.Err, ErrAborted) != want {
			t.Errorf("connection %d: aborted %v, got %v", i, want, tr.stats.Err)
		}
	}
	handles[1].Abort() // of one that is over
	Handle{}.Abort()
}

// busy exchanges data until it is told to stop, and once more.
func busy(c *net.TCPConn, stop chan struct{}) error {
	buf := make([]byte, 64<<10)
	for stopped := false; !stopped; {
		select {
		case <-stop:
			stopped = true
		default:
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
	}
	return c.Close()
}

// TestSlowReader: while nobody reads, nothing is stored beyond what sockets and one
// pipe take, and nothing is lost.
func TestSlowReader(t *testing.T) {
	const total = 64 << 20
	b := &book{targets: []Target{{Addr: serve(t, func(c *net.TCPConn) {
		_, _ = c.Write(make([]byte, total))
	})}}}
	e, at := start(t, Config{Handler: b})
	c := dial(t, at)
	var last uint64
	quiet := 0
	eventually(t, "it stops", func() bool {
		time.Sleep(10 * time.Millisecond)
		n := e.Counters().ToClient
		if n != last || n == 0 {
			quiet = 0
		}
		quiet, last = quiet+1, n
		return quiet == 20
	})
	if last > total/2 {
		t.Errorf("%d bytes were read from the endpoint, and none by the client", last)
	}
	if n, err := io.Copy(io.Discard, c); n != total || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
}

func TestIdleTimeout(t *testing.T) {
	b := &book{targets: []Target{{Addr: serve(t, echo)}}}
	_, at := start(t, Config{Handler: b, IdleTimeout: 600 * time.Millisecond})
	began := time.Now()
	c := dial(t, at)
	for time.Since(began) < 1200*time.Millisecond {
		say(t, c, "hello")
		hear(t, c, "hello")
		time.Sleep(10 * time.Millisecond)
	}
	last := time.Now()
	hearReset(t, c)
	if d := time.Since(last); d < 500*time.Millisecond {
		t.Errorf("reset after %v", d)
	}
	if err := b.wait(t, "closed", isOver).stats.Err; !errors.Is(err, ErrIdle) {
		t.Errorf("got %v", err)
	}
}

func TestMaxConns(t *testing.T) {
	e, at := start(t, Config{Handler: &silentBook{Target{Addr: serve(t, echo)}}, MaxConns: 3})
	for range 2 {
		var open []*net.TCPConn
		for range 3 {
			c := dial(t, at)
			say(t, c, "hello")
			hear(t, c, "hello")
			open = append(open, c)
		}
		dialReset(t, at)
		for _, c := range open {
			c.Close()
		}
		eventually(t, "all are closed", func() bool { return e.Counters().Active == 0 })
	}
	if n := e.Counters(); n.Shed != 2 || n.Accepted != 6 {
		t.Errorf("got %+v", n)
	}
}

// TestShare: connections that last are spread over the workers.
func TestShare(t *testing.T) {
	e, at := start(t, Config{Handler: &silentBook{Target{Addr: serve(t, echo)}}, Workers: 4})
	const conns = 400
	for range conns {
		c := dial(t, at)
		say(t, c, "hello")
		hear(t, c, "hello")
	}
	for i, w := range e.workers {
		if n := w.count.active.Load(); n > conns/4+conns/16+32 {
			t.Errorf("worker %d has %d of %d connections", i, n, conns)
		}
	}
}

// TestEnd: the end of an Engine is one of its connections, and nothing is left.
func TestEnd(t *testing.T) {
	b := &book{targets: []Target{{Addr: serve(t, echo)}}}
	e, err := New(Config{Handler: b})
	if err != nil {
		t.Fatal(err)
	}
	at, err := e.Listen(netip.MustParseAddrPort("127.0.0.1:0"), service.FromOutside)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(context.Background()) }()
	c := dial(t, at)
	say(t, c, "hello")
	hear(t, c, "hello")
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	hearReset(t, c)
	if err := b.wait(t, "closed", isOver).stats.Err; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	b.trips[0].handle.Abort()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := e.Listen(at, service.FromPod); !errors.Is(err, ErrClosed) {
		t.Errorf("listen after the end: got %v", err)
	}
	if err := e.Run(t.Context()); err == nil {
		t.Error("it runs twice")
	}
	if c, err := net.Dial("tcp", at.String()); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

// TestUrgent: urgent data is passed on in its place, and does not stop what follows.
func TestUrgent(t *testing.T) {
	_, at := start(t, Config{Handler: &silentBook{Target{Addr: serve(t, echo)}}})
	c := dial(t, at)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for i := range 50 {
		say(t, c, "ab")
		err := raw.Control(func(fd uintptr) {
			if err := unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		say(t, c, fmt.Sprint(i))
		want += "ab!" + fmt.Sprint(i)
	}
	hear(t, c, want)
}
