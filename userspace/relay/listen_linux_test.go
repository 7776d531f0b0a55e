package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// dialRefused fails unless a new connection is refused.
func dialRefused(t testing.TB, addr netip.AddrPort) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr.String(), 10*time.Second)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("got %v, want it refused", err)
	}
}

// TestUnlisten ends one of two listeners, and begins it again, before the Engine runs
// and while it does.
func TestUnlisten(t *testing.T) {
	e, stays := start(t, Config{Handler: &book{targets: []Target{{Addr: serve(t, echo)}}}})
	for _, zero := range []string{"127.0.9.1:0", "[::1]:0"} {
		at, err := e.Listen(netip.MustParseAddrPort(zero), service.FromHost)
		if err != nil {
			t.Fatal(err)
		}
		old := dial(t, at)
		say(t, old, "hello")
		hear(t, old, "hello")
		for range 20 {
			if !e.Unlisten(at) || e.Unlisten(at) {
				t.Fatal("want the listener to be there, once")
			}
			dialRefused(t, at)
			if _, err := e.Listen(at, service.FromHost); err != nil {
				t.Fatal(err)
			}
			c := dial(t, at)
			say(t, c, "hello")
			hear(t, c, "hello")
		}
		if !e.Unlisten(at) {
			t.Error("the listener has gone by itself")
		}
		say(t, old, "still here")
		hear(t, old, "still here")
		if err := old.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		hearEnd(t, old)
	}
	c := dial(t, stays)
	say(t, c, "hello")
	hear(t, c, "hello")
}

// TestUnlistenBeforeRun: what the workers have not been told yet when they end, or
// never begin, is closed all the same.
func TestUnlistenBeforeRun(t *testing.T) {
	_, before := resources(t)
	for _, run := range []bool{false, true} {
		e, err := New(Config{Handler: &book{}, Workers: 3})
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			at, err := e.Listen(netip.MustParseAddrPort("127.0.0.1:0"), service.FromHost)
			if err != nil {
				t.Fatal(err)
			}
			e.Unlisten(at)
			dialRefused(t, at)
		}
		if run {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err = e.Run(ctx)
		}
		if err := errors.Join(err, e.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Listen(netip.MustParseAddrPort("127.0.0.1:0"), service.FromHost); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed Engine listens: %v", err)
		}
	}
	eventually(t, "all is closed", func() bool {
		_, after := resources(t)
		return after <= before
	})
}

// A doorman checks that nobody comes through the listener of another.
type doorman struct {
	to     netip.AddrPort
	origin sync.Map // by frontend
	wrong  atomic.Pointer[string]
}

func (d *doorman) Accepted(_, frontend netip.AddrPort, origin service.Origin) Journey {
	if want, ok := d.origin.Load(frontend); !ok || want != origin {
		text := fmt.Sprintf("a caller of %v came by the listener for %v, want %v", frontend, origin, want)
		d.wrong.Store(&text)
	}
	return (&silentBook{Target{Addr: d.to}}).Accepted(netip.AddrPort{}, frontend, origin)
}

// TestListenWalk opens and closes listeners of the Engine, and others of the process,
// at random, while clients call all the time. Descriptors are numbers that come again
// at once: whoever is called must be the one who answers.
func TestListenWalk(t *testing.T) {
	d := &doorman{to: serve(t, echo)}
	e, _ := start(t, Config{Handler: d, Workers: 3})
	length := 4 * time.Second
	if testing.Short() {
		length = time.Second
	}
	stop := time.Now().Add(length)
	var answered atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { d.churn(t, e, service.Origin(i%service.NumOrigins), stop, &answered) })
	}
	for range 2 {
		wg.Go(func() { strangers(t, stop) })
	}
	wg.Wait()
	if w := d.wrong.Load(); w != nil {
		t.Error(*w)
	}
	if len(e.at) != 1 || len(e.listeners())-len(e.free) != 1 || len(e.listeners()) > 6 {
		t.Errorf("%d listeners in %d places, %d of them free; want one, in at most 6", len(e.at), len(e.listeners()), len(e.free))
	}
	t.Logf("%d calls answered", answered.Load())
	if answered.Load() < 100 {
		t.Errorf("only %d calls were answered", answered.Load())
	}
}

// churn listens, has itself called, and ends that, again and again.
func (d *doorman) churn(t *testing.T, e *Engine, origin service.Origin, stop time.Time, answered *atomic.Int64) {
	rnd := rand.New(rand.NewPCG(uint64(origin), rand.Uint64()))
	// At an address where nobody else looks for a port meanwhile.
	at, err := e.Listen(netip.MustParseAddrPort("127.0.9.1:0"), origin)
	d.origin.Store(at, origin)
	for err == nil && time.Now().Before(stop) {
		var wg sync.WaitGroup
		for range rnd.IntN(4) {
			wg.Go(func() {
				c, err := net.DialTimeout("tcp", at.String(), 10*time.Second)
				if err != nil {
					return
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				b := []byte("hello")
				if _, err = c.Write(b); err == nil {
					_, err = io.ReadFull(c, b)
				}
				switch {
				case err == nil && string(b) == "hello":
					answered.Add(1)
				case !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE): // it was not accepted in time
					t.Errorf("got %q, %v", b, err)
				}
			})
		}
		if rnd.IntN(2) == 0 {
			wg.Wait()
		}
		if !e.Unlisten(at) {
			t.Errorf("nobody listens at %v", at)
		}
		wg.Wait()
		_, err = e.Listen(at, origin)
	}
	if err != nil || !e.Unlisten(at) {
		t.Errorf("%v: %v", at, err)
	}
}

// strangers are listeners of the process that the Engine does not know.
func strangers(t *testing.T, stop time.Time) {
	for time.Now().Before(stop) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			return
		}
		c, err := net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		if err == nil {
			var s net.Conn
			_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
			if s, err = l.Accept(); err == nil {
				s.Close()
			}
			c.Close()
		}
		if err != nil {
			t.Errorf("a caller of another listener: %v", err)
		}
		l.Close()
	}
}
