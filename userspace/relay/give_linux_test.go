package relay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// pass moves what from gives at once to to, as two processes do: with descriptors of
// its own. Every nth connection is not taken.
func pass(t *testing.T, from, to *Engine, nth int) (n int) {
	t.Helper()
	for i, g := range from.Give() {
		if nth > 0 && i%nth == nth-1 {
			g.Resume()
			continue
		}
		if err := to.Take(g.State, dupAll(t, g.FDs), g.Journey.(*trip).again()); err != nil {
			t.Fatal(err)
		}
		g.Gone()
		n++
	}
	return n
}

func dupAll(t *testing.T, fds []int) (out []int) {
	t.Helper()
	for _, fd := range fds {
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

// again returns the Journey of the same connection elsewhere.
func (t *trip) again() *trip {
	b := &book{}
	tr := &trip{book: b, client: t.client, frontend: t.frontend, origin: t.origin}
	b.trips = []*trip{tr}
	return tr
}

// talk says n bytes that follow from a seed, in pieces, and wants to hear as many of
// another, and the end. It may be slow to listen, and may end its half first.
func talk(c *net.TCPConn, mine, theirs byte, n int64, slow, endFirst bool) error {
	said, heard := make(chan error, 1), sha256.New()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{c}, io.LimitReader(rand.NewChaCha8([32]byte{mine}), n), make([]byte, 7000))
		if err == nil && endFirst {
			err = c.CloseWrite()
		}
		said <- err
	}()
	buf, got := make([]byte, 16<<10), int64(0)
	for {
		m, err := c.Read(buf)
		heard.Write(buf[:m])
		if got += int64(m); err != nil || got == n && !endFirst {
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("after %d bytes: %w", got, err)
			}
			break
		}
		if slow && got%5 == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	want := sha256.New()
	if _, err := io.CopyN(want, rand.NewChaCha8([32]byte{theirs}), n); err != nil {
		return err
	}
	if got != n || !bytes.Equal(heard.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("heard %d bytes, want %d; equal: %t", got, n, bytes.Equal(heard.Sum(nil), want.Sum(nil)))
	}
	if err := <-said; err != nil {
		return fmt.Errorf("say: %w", err)
	}
	if endFirst {
		return nil
	}
	return c.CloseWrite()
}

// TestGive passes connections to and fro between Engines while they are busy: nothing
// is lost, nothing comes twice, and ends are ends.
func TestGive(t *testing.T) {
	const size = 3 << 20
	var failed sync.Map
	backend := serve(t, func(c *net.TCPConn) {
		port := c.RemoteAddr().(*net.TCPAddr).Port
		if err := talk(c, 2, 1, size, port%3 == 0, port%2 == 0); err != nil {
			failed.Store(c.RemoteAddr().String(), err)
		}
		_, _ = io.Copy(io.Discard, c)
	})
	b := &book{targets: []Target{{Addr: backend}}}
	one, at := start(t, Config{Handler: b})
	two, _ := start(t, Config{Handler: &book{}})
	three, _ := start(t, Config{Handler: &book{}, MaxPipes: -1})
	const conns = 24
	var wg sync.WaitGroup
	errs := make([]error, conns)
	for i := range conns {
		wg.Go(func() {
			c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
			if err != nil {
				errs[i] = err
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
			if err = talk(c, 1, 2, size, i%3 == 1, i%2 == 0); err == nil {
				_, err = io.Copy(io.Discard, c) // until the other side has ended too
			}
			errs[i] = err
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	moved := 0
	for round := 0; ; round++ {
		for _, p := range [][2]*Engine{{one, two}, {two, three}, {three, one}} {
			moved += pass(t, p[0], p[1], round%3*2)
		}
		select {
		case <-over:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	t.Logf("moved %d times", moved)
	for i, err := range errs {
		if err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
	failed.Range(func(k, v any) bool { t.Errorf("endpoint, for %v: %v", k, v); return true })
	if moved < conns {
		t.Errorf("only %d connections were passed on", moved)
	}
	for _, e := range []*Engine{one, two, three} {
		eventually(t, "no pipe that is lost", func() bool {
			c := e.Counters()
			return c.Active == 0 && e.pipes.Load() <= int64(sparePipes*len(e.workers)) && e.pipes.Load() >= 0
		})
	}
	if one.Counters().Given == 0 || two.Counters().Taken == 0 {
		t.Errorf("counters: %+v, %+v", one.Counters(), two.Counters())
	}
}

// TestGiveIdle passes connections on that wait: open, and half-closed either way.
func TestGiveIdle(t *testing.T) {
	backend := serve(t, func(c *net.TCPConn) {
		buf := make([]byte, 16)
		n, _ := c.Read(buf)
		if string(buf[:n]) == "end" {
			_ = c.CloseWrite() // and goes on to listen
			n, _ = c.Read(buf)
		}
		_, _ = io.Copy(c, io.MultiReader(bytes.NewReader(buf[:n]), c))
	})
	b := &book{targets: []Target{{Addr: backend}}}
	one, at := start(t, Config{Handler: b})
	two, _ := start(t, Config{Handler: &book{}})
	var conns []*net.TCPConn
	for _, first := range []string{"say", "end", "fin"} {
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, first); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		n, err := c.Read(buf)
		if first == "end" && !errors.Is(err, io.EOF) || first != "end" && string(buf[:n]) != first {
			t.Fatalf("%s: got %q, %v", first, buf[:n], err)
		}
		conns = append(conns, c)
	}
	if err := conns[2].CloseWrite(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := conns[2].Read(buf); n > 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("after our end: %q, %v", buf[:n], err) // and both sides have ended
	}
	eventually(t, "the third is over", func() bool { return one.Counters().Active == 2 })
	n := 0
	for more := 1; more > 0; n += more { // each worker has its own
		more = pass(t, one, two, 0)
	}
	if n != 2 {
		t.Fatalf("%d were passed on, want 2", n)
	}
	if list := one.Give(); len(list) != 0 {
		t.Errorf("%d more are given", len(list))
	}
	eventually(t, "they are gone", func() bool { return one.Counters().Active == 0 && two.Counters().Active == 2 })
	if _, err := io.WriteString(conns[0], "more"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conns[0], buf[:4]); err != nil || string(buf[:4]) != "more" {
		t.Errorf("got %q, %v", buf[:4], err)
	}
	for i, c := range conns[:2] {
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		if n, err := c.Read(buf); n > 0 || !errors.Is(err, io.EOF) {
			t.Errorf("%d: got %q, %v, want the end", i, buf[:n], err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, tr := range b.trips[:2] {
		if !tr.over || !errors.Is(tr.stats.Err, ErrGiven) {
			t.Errorf("%d: over %t, %v", i, tr.over, tr.stats.Err)
		}
	}
}

// TestInherit hands a listener over while clients come: nobody is refused, or waits.
func TestInherit(t *testing.T) {
	backend := serve(t, echo)
	b := &book{targets: []Target{{Addr: backend}}}
	one, at := start(t, Config{Handler: b})
	two, err := New(Config{Handler: b})
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := one.Sockets()
	if err != nil || len(sockets) != 1 || sockets[0].Addr != at || sockets[0].Origin != service.FromHost {
		t.Fatalf("got %v, %v", sockets, err)
	}
	if err := two.Inherit(sockets[0]); err != nil {
		t.Fatal(err)
	}
	one.Leave()
	eventually(t, "the first has let go", func() bool { return !holdsFD(t, one, at) })
	early, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at)) // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	ctx := t.Context()
	done := make(chan error, 1)
	go func() { done <- two.Run(ctx) }()
	_ = early.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(early, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(early, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	if n := one.Counters().Accepted; n != 0 {
		t.Errorf("the first has accepted %d", n)
	}

	two.Quieten()
	var d net.Dialer
	d.Timeout = 300 * time.Millisecond
	if c, err := d.Dial("tcp", at.String()); err == nil || !isTimeout(err) {
		t.Errorf("connected, or refused, while nobody is heard: %v, %v", c, err)
	}
	if _, err := io.WriteString(early, "y"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(early, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	if err := two.Close(); err != nil {
		t.Error(err)
	}
	<-done
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func holdsFD(t *testing.T, e *Engine, at netip.AddrPort) bool {
	t.Helper()
	runtime.Gosched()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.workers {
		w.mail.mu.Lock()
		n := len(w.mail.list)
		w.mail.mu.Unlock()
		if n > 0 {
			return true
		}
	}
	return e.at[at] != nil
}
