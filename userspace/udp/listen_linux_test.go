package udp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// connected returns a socket that hears of ICMP errors.
func connected(t testing.TB, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err == nil {
		err = c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// say sends and returns what comes back.
func say(c *net.UDPConn, text string) (string, error) {
	if _, err := c.Write([]byte(text)); err != nil {
		return "", err
	}
	buf := make([]byte, 1<<10)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// TestListen opens and closes a listener while others go on.
func TestListen(t *testing.T) {
	for _, zero := range []string{"127.0.9.1:0", "[::1]:0"} {
		server, _ := echo(t, local(false), "")
		d := &desk{choose: to(server)}
		e := serve(t, Config{Workers: 2}, d)
		c := socket(t, local(false))
		if got := ask(t, c, e.Addrs()[0], "hello"); got != "hello" {
			t.Errorf("got %q", got)
		}
		at, err := e.Listen(Listener{Addr: netip.MustParseAddrPort(zero), Origin: service.FromHost})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Listen(Listener{Addr: at}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("listening twice at %v: %v", at, err)
		}
		for round := range 5 {
			client := connected(t, at)
			for range 2 {
				if got, err := say(client, "hello"); got != "hello" || err != nil {
					t.Fatalf("%v, round %d: got %q, %v", at, round, got, err)
				}
			}
			if !e.Unlisten(at) || e.Unlisten(at) {
				t.Fatal("want the listener to be there, once")
			}
			if r := d.result(t, round+1); r.Reason != Gone || r.In.Datagrams != 2 {
				t.Errorf("%v, round %d: the session ended as %+v", at, round, r)
			}
			if _, err := say(client, "hello"); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%v, round %d: got %v, want it refused", at, round, err)
			}
			if _, err := e.Listen(Listener{Addr: at, Origin: service.FromHost}); err != nil {
				t.Fatal(err)
			}
		}
		if got := ask(t, c, e.Addrs()[0], "still here"); got != "still here" {
			t.Errorf("got %q", got)
		}
	}
}

// TestListenTaken: a port that another program has is not shared with it, even if that
// is willing to.
func TestListenTaken(t *testing.T) {
	e := serve(t, Config{}, &desk{choose: to(local(false))})
	willing := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); e != nil {
			err = e
		}
		return err
	}}
	theirs, err := willing.ListenPacket(t.Context(), "udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(local(false).Addr(), uint16(theirs.LocalAddr().(*net.UDPAddr).Port))
	if _, err := e.Listen(Listener{Addr: at}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("got %v, want the address in use", err)
	}
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Listen(Listener{Addr: at}); err != nil {
		t.Error(err)
	}
	if _, err := e.Listen(Listener{}); err == nil {
		t.Error("it listens nowhere")
	}
}

// TestListenClosed has nothing to listen at from the beginning, nor in the end.
func TestListenClosed(t *testing.T) {
	before := descriptors(t)
	e, err := Open(Config{Handler: &desk{}, Workers: 3})
	if err != nil {
		t.Fatal(err)
	}
	at, err := e.Listen(Listener{Addr: local(false)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Serve(ctx); err != nil {
		t.Error(err)
	}
	if got := descriptors(t); got > before {
		t.Errorf("%d descriptors, %d before", got, before)
	}
	if _, err := e.Listen(Listener{Addr: local(false)}); err == nil {
		t.Error("it listens although it has ended")
	}
	e.Unlisten(at)
}

// TestListenWalk opens and closes listeners at random while clients call.
func TestListenWalk(t *testing.T) {
	server, _ := echo(t, local(false), "")
	var wrong atomic.Pointer[string]
	var origins sync.Map // by frontend
	d := &desk{choose: func(f Flow, _ any) (Target, bool) {
		if want, ok := origins.Load(f.Frontend); ok && want != f.Origin {
			text := fmt.Sprintf("%+v, want origin %v", f, want)
			wrong.Store(&text)
		}
		return Target{Addr: server, Lease: server}, true
	}}
	e := serve(t, Config{Workers: 3}, d)
	length := 3 * time.Second
	if testing.Short() {
		length = time.Second
	}
	stop := time.Now().Add(length)
	var answered atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			origin := service.Origin(i % service.NumOrigins)
			at, err := e.Listen(Listener{Addr: netip.MustParseAddrPort("127.0.9.1:0"), Origin: origin})
			origins.Store(at, origin)
			for err == nil && time.Now().Before(stop) {
				var calls sync.WaitGroup
				for range rand.IntN(4) {
					calls.Go(func() {
						c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
						if err != nil {
							t.Error(err)
							return
						}
						defer c.Close()
						_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
						if got, err := say(c, at.String()); err == nil && got == at.String() {
							answered.Add(1)
						} else if err == nil {
							t.Errorf("%v: got %q", at, got)
						}
					})
				}
				if rand.IntN(2) == 0 {
					calls.Wait()
				}
				if !e.Unlisten(at) {
					t.Errorf("nobody listens at %v", at)
				}
				calls.Wait()
				_, err = e.Listen(Listener{Addr: at, Origin: origin})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if w := wrong.Load(); w != nil {
		t.Error(*w)
	}
	t.Logf("%d calls answered", answered.Load())
	if answered.Load() < 50 {
		t.Errorf("only %d calls were answered", answered.Load())
	}
}
