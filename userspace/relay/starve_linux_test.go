package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// trial says whether a new connection through addr works; it does not if it is reset.
func trial(t *testing.T, addr string) (net.Conn, bool) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err == nil {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err = io.WriteString(c, "hello"); err == nil {
			_, err = io.ReadFull(c, make([]byte, 5))
		}
	}
	if err != nil && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		t.Fatalf("got %v, want an answer or a reset", err)
	}
	return c, err == nil
}

// TestStarvation runs a relay out of descriptors. Connections that do not fit are
// reset, those that do work, and all is well when there are descriptors again.
func TestStarvation(t *testing.T) {
	r := spawn(t, "relay", serve(t, echo).String()+" 60")
	var open []net.Conn
	resets := 0
	for range 100 {
		if c, ok := trial(t, r.addr); ok {
			open = append(open, c)
		} else {
			resets++
		}
	}
	n := r.counters(t)
	t.Logf("%d connections work, %d were reset; %+v", len(open), resets, n)
	if len(open) < 10 || resets < 60 || n.Shed != uint64(resets) {
		t.Errorf("got %d open, %d reset, %+v", len(open), resets, n)
	}
	for _, c := range open {
		say(t, c, "again")
		hear(t, c, "again")
		c.Close()
	}
	eventually(t, "all are closed", func() bool { return r.counters(t).Active == 0 })
	if _, ok := trial(t, r.addr); !ok {
		t.Error("there are descriptors again, but connections are reset")
	}
}

// TestStarvationByOthers takes the descriptors away, at last the reserve too.
func TestStarvationByOthers(t *testing.T) {
	r := spawn(t, "relay", serve(t, echo).String()+" 60")
	if got := r.ask(t, "fill"); got == "0" {
		t.Fatal("no descriptor was free")
	}
	for range 20 {
		if _, ok := trial(t, r.addr); ok {
			t.Fatal("it works without descriptors")
		}
	}
	if n := r.counters(t); n.Shed != 20 {
		t.Errorf("got %+v", n)
	}
	// While connections are refused by means of the reserves, these may fall into the
	// hands of the thief. Then nobody can be refused, and the relay must wait without
	// using the processor for that.
	if _, err := io.WriteString(r.in, "fill\n"); err != nil {
		t.Fatal(err)
	}
	var waiting []int
	for range 300 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, fd)
		_ = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(netip.MustParseAddrPort(r.addr).Port())})
		time.Sleep(500 * time.Microsecond) // so that the relay sees them one by one
	}
	t.Logf("%s descriptors were taken; %+v", r.hear(t), r.counters(t))
	before := cpuTime(t, r.pid)
	time.Sleep(300 * time.Millisecond)
	if used := cpuTime(t, r.pid) - before; used > 150*time.Millisecond {
		t.Errorf("used %v in 300 ms", used)
	}
	for _, fd := range waiting {
		unix.Close(fd)
	}
	r.ask(t, "free")
	eventually(t, "it works again", func() bool {
		_, ok := trial(t, r.addr)
		return ok
	})
}

// TestPause: a worker that cannot even refuse leaves its listeners alone for a while,
// and no longer than that.
func TestPause(t *testing.T) {
	e, err := New(Config{Handler: &silentBook{Target{Addr: serve(t, echo)}}, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	at, err := e.Listen(netip.MustParseAddrPort("127.0.0.1:0"), service.FromPod)
	if err != nil {
		t.Fatal(err)
	}
	w := e.workers[0]
	closeFD(w.reserve)
	w.reserve = -1
	if w.shed(e.listeners()[0]) {
		t.Fatal("it shed a connection without a reserve")
	}
	c := dial(t, at)
	say(t, c, "hello")
	if n, err := poll(w.epoll, w.events); n != 0 || err != nil {
		t.Errorf("got %d events, %v", n, err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(context.Background()) }()
	hear(t, c, "hello")
	if err := errors.Join(e.Close(), <-done); err != nil {
		t.Error(err)
	}
	if w.resume != 0 {
		t.Error("the pause has not ended")
	}
}
