package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// A book is a Handler that offers the same targets to everybody, and notes what it
// is told.
type book struct {
	targets []Target // nil refuses

	mu     sync.Mutex
	trips  []*trip
	closed int
}

// A trip is the Journey of one connection of a book.
type trip struct {
	book             *book
	client, frontend netip.AddrPort
	origin           service.Origin
	next             int

	// Under book.mu.
	failures []error
	handle   Handle
	up       bool
	over     bool
	stats    Stats
}

func (b *book) Accepted(client, frontend netip.AddrPort, origin service.Origin) Journey {
	if b.targets == nil {
		return nil
	}
	tr := &trip{book: b, client: client, frontend: frontend, origin: origin}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trips = append(b.trips, tr)
	return tr
}

func (t *trip) Next() (Target, bool) {
	t.book.mu.Lock()
	defer t.book.mu.Unlock()
	if t.next == len(t.book.targets) {
		return Target{}, false
	}
	t.next++
	return t.book.targets[t.next-1], true
}

func (t *trip) Failed(err error) {
	t.book.mu.Lock()
	defer t.book.mu.Unlock()
	t.failures = append(t.failures, err)
}

func (t *trip) Connected(h Handle) {
	t.book.mu.Lock()
	defer t.book.mu.Unlock()
	t.handle, t.up = h, true
}

func (t *trip) Closed(s Stats) {
	t.book.mu.Lock()
	defer t.book.mu.Unlock()
	if t.over {
		panic("closed twice")
	}
	t.over, t.stats = true, s
	t.book.closed++
}

// wait returns a copy of the only trip when done says so.
func (b *book) wait(t *testing.T, what string, done func(*trip) bool) trip {
	t.Helper()
	var last trip
	eventually(t, what, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.trips) != 1 {
			return false
		}
		last = *b.trips[0]
		last.failures = slices.Clone(last.failures)
		return done(b.trips[0])
	})
	return last
}

func isOver(t *trip) bool { return t.over }
func isUp(t *trip) bool   { return t.up }

// eventually fails if something does not become true in good time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("it never happened: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// start runs an Engine with one listener on the loopback until the test ends.
func start(t testing.TB, c Config) (*Engine, netip.AddrPort) {
	t.Helper()
	return startAt(t, c, "127.0.0.1:0")
}

func startAt(t testing.TB, c Config, addr string) (*Engine, netip.AddrPort) {
	t.Helper()
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	at, err := e.Listen(netip.MustParseAddrPort(addr), service.FromHost)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if n := e.Counters().Active; n != 0 {
			t.Errorf("%d connections are active after the end", n)
		}
	})
	return e, at
}

// serve runs do for every connection to a new endpoint.
func serve(t testing.TB, do func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(time.Millisecond) // no descriptors
				continue
			}
			wg.Go(func() {
				defer c.Close()
				do(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// echo sends back what comes, and its end.
func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, struct{ io.Reader }{c})
	_ = c.CloseWrite()
}

// refused returns an address at which nobody listens.
func refused(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
}

// silent returns an address that does not answer: its queue is full.
func silent(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(s) })
		_ = unix.Connect(s, sa)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
}

func dial(t testing.TB, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func say(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t testing.TB, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

// hearEnd fails unless the stream ends properly here.
func hearEnd(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("got %d bytes and %v, want the end", n, err)
	}
}

// hearReset fails unless the connection is reset.
func hearReset(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("got %v, want a reset", err)
	}
}

// dialReset fails unless a new connection is reset, which may be before it is used.
func dialReset(t testing.TB, addr netip.AddrPort) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr.String(), 10*time.Second)
	if err == nil {
		defer c.Close()
		if _, err = io.WriteString(c, "hello"); err == nil { // else the reset was told already
			_, err = io.Copy(io.Discard, c)
		}
	}
	if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		t.Fatalf("got %v, want a reset", err)
	}
}

func reset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Error(err)
	}
}
