package relay

import (
	cmpx "cmp"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Config
		want string // of the error, by words in it
	}{
		{"no handler", Config{}, "Handler"},
		{"everything", Config{Workers: -1, MaxConns: -1, ConnectTimeout: -1, IdleTimeout: -1},
			"Handler Workers MaxConns ConnectTimeout IdleTimeout"},
	} {
		_, err := New(tt.c)
		for _, word := range strings.Fields(tt.want) {
			if err == nil || !strings.Contains(err.Error(), word+": ") {
				t.Errorf("%s: got %v, want something about %s", tt.name, err, word)
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		b := &book{targets: []Target{{Addr: serve(t, echo)}}}
		e, at := startAt(t, Config{Handler: b}, listen)
		c := dial(t, at)
		for _, text := range []string{"a", "hello", strings.Repeat("x", 100_000), "b"} {
			say(t, c, text)
			hear(t, c, text)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		hearEnd(t, c)
		got := b.wait(t, "closed", isOver)
		if got.client != c.LocalAddr().(*net.TCPAddr).AddrPort() || got.frontend != at || got.origin != service.FromHost {
			t.Errorf("got client %v, frontend %v, origin %v", got.client, got.frontend, got.origin)
		}
		if s := got.stats; s.FromClient != 100_007 || s.ToClient != 100_007 || s.Err != nil || s.Duration <= 0 {
			t.Errorf("got %+v", s)
		}
		want := Counters{Accepted: 1, FromClient: 100_007, ToClient: 100_007}
		n := e.Counters()
		n.Spliced = 0
		if d := cmp.Diff(want, n); d != "" {
			t.Errorf("counters (-want +got):\n%s", d)
		}
	}
}

// TestServerFirst: an endpoint that speaks first, and ends, is heard by a client
// that says nothing.
func TestServerFirst(t *testing.T) {
	b := &book{targets: []Target{{Addr: serve(t, func(c *net.TCPConn) { _, _ = io.WriteString(c, "welcome") })}}}
	_, at := start(t, Config{Handler: b})
	c := dial(t, at)
	hear(t, c, "welcome")
	hearEnd(t, c)
	c.Close()
	if s := b.wait(t, "closed", isOver).stats; s.Err != nil || s.ToClient != 7 {
		t.Errorf("got %+v", s)
	}
}

// TestHalfClose: each side may go on after the other has ended.
func TestHalfClose(t *testing.T) {
	t.Run("client first", func(t *testing.T) {
		b := &book{targets: []Target{{Addr: serve(t, func(c *net.TCPConn) {
			text, err := io.ReadAll(c)
			if err == nil {
				_, _ = io.WriteString(c, "you said "+string(text))
			}
		})}}}
		_, at := start(t, Config{Handler: b})
		c := dial(t, at)
		say(t, c, "hello")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		hear(t, c, "you said hello")
		hearEnd(t, c)
	})
	t.Run("endpoint first", func(t *testing.T) {
		heard := make(chan string, 1)
		b := &book{targets: []Target{{Addr: serve(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "go on")
			_ = c.CloseWrite()
			text, _ := io.ReadAll(c)
			heard <- string(text)
		})}}}
		_, at := start(t, Config{Handler: b})
		c := dial(t, at)
		hear(t, c, "go on")
		hearEnd(t, c)
		say(t, c, "and on")
		c.Close()
		if got := <-heard; got != "and on" {
			t.Errorf("got %q", got)
		}
		if err := b.wait(t, "closed", isOver).stats.Err; err != nil {
			t.Errorf("got %v", err)
		}
	})
}

func TestReset(t *testing.T) {
	t.Run("of the client", func(t *testing.T) {
		got := make(chan error, 1)
		b := &book{targets: []Target{{Addr: serve(t, func(c *net.TCPConn) {
			_, err := io.Copy(io.Discard, c)
			got <- err
		})}}}
		_, at := start(t, Config{Handler: b})
		c := dial(t, at)
		say(t, c, "hello")
		b.wait(t, "connected", isUp)
		reset(t, c)
		if err := <-got; !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the endpoint got %v", err)
		}
		if err := b.wait(t, "closed", isOver).stats.Err; !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of the endpoint", func(t *testing.T) {
		b := &book{targets: []Target{{Addr: serve(t, func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 5))
			_, _ = io.WriteString(c, "no")
			_ = c.SetLinger(0)
		})}}}
		_, at := start(t, Config{Handler: b})
		c := dial(t, at)
		say(t, c, "hello")
		hearReset(t, c)
		if err := b.wait(t, "closed", isOver).stats.Err; !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRefusedByHandler(t *testing.T) {
	e, at := start(t, Config{Handler: &book{}})
	dialReset(t, at)
	if d := cmp.Diff(Counters{Refused: 1}, e.Counters()); d != "" {
		t.Errorf("counters (-want +got):\n%s", d)
	}
}

func TestFailover(t *testing.T) {
	good := serve(t, echo)
	short := 50 * time.Millisecond
	bad, mute := Target{Addr: refused(t)}, Target{Addr: silent(t), Timeout: short}
	nowhere := Target{Addr: netip.MustParseAddrPort("[2001:db8::1]:9")} // no route, or no answer
	nowhere.Timeout = short
	tests := []struct {
		name    string
		targets []Target
		want    []error
	}{
		{"refused", []Target{bad, {Addr: good}}, []error{unix.ECONNREFUSED}},
		{"refused twice", []Target{bad, bad, {Addr: good}}, []error{unix.ECONNREFUSED, unix.ECONNREFUSED}},
		{"silent", []Target{mute, {Addr: good}}, []error{unix.ETIMEDOUT}},
		{"both", []Target{mute, bad, mute, {Addr: good}}, []error{unix.ETIMEDOUT, unix.ECONNREFUSED, unix.ETIMEDOUT}},
		{"nobody there", []Target{bad, mute}, []error{unix.ECONNREFUSED, unix.ETIMEDOUT}},
		{"nobody at all", []Target{}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &book{targets: tt.targets}
			e, at := start(t, Config{Handler: b})
			ok := len(tt.want) < len(tt.targets)
			if ok {
				c := dial(t, at)
				say(t, c, "hello")
				hear(t, c, "hello")
				reset(t, c)
			} else {
				dialReset(t, at)
			}
			got := b.wait(t, "closed", isOver)
			if d := cmp.Diff(tt.want, got.failures, cmp.Comparer(func(x, y error) bool { return x == y })); d != "" {
				t.Errorf("failures (-want +got):\n%s", d)
			}
			if got.up != ok || !ok && !errors.Is(got.stats.Err, ErrExhausted) {
				t.Errorf("connected %v, %v", got.up, got.stats.Err)
			}
			n := e.Counters()
			wantRetries := max(0, len(tt.targets)-1)
			if n.Retries != uint64(wantRetries) || n.FailedRefused+n.FailedTimeout != uint64(len(tt.want)) {
				t.Errorf("got %+v", n)
			}
		})
	}
	t.Run("no route", func(t *testing.T) {
		b := &book{targets: []Target{nowhere, {Addr: good}}}
		e, at := start(t, Config{Handler: b})
		c := dial(t, at)
		say(t, c, "hello")
		hear(t, c, "hello")
		if n := e.Counters(); n.FailedUnreachable+n.FailedTimeout+n.FailedOther != 1 {
			t.Errorf("got %+v", n)
		}
	})
}

// TestClientLeaves: a client that resets while its endpoint is being looked for ends
// the search; one that only ends its stream does not.
func TestClientLeaves(t *testing.T) {
	t.Run("reset", func(t *testing.T) {
		b := &book{targets: []Target{{Addr: silent(t), Timeout: time.Minute}}}
		_, at := start(t, Config{Handler: b})
		c := dial(t, at)
		b.wait(t, "accepted", func(*trip) bool { return true })
		reset(t, c)
		if got := b.wait(t, "closed", isOver); !errors.Is(got.stats.Err, ErrClientGone) || got.failures != nil {
			t.Errorf("got %v after %v", got.stats.Err, got.failures)
		}
	})
	t.Run("end of stream", func(t *testing.T) {
		b := &book{targets: []Target{{Addr: silent(t), Timeout: 50 * time.Millisecond}, {Addr: serve(t, echo)}}}
		_, at := start(t, Config{Handler: b})
		c := dial(t, at)
		say(t, c, "hello")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		hear(t, c, "hello")
		hearEnd(t, c)
	})
}

// TestBulk moves much both ways at once and compares it.
func TestBulk(t *testing.T) {
	size := int64(512 << 20)
	if testing.Short() || raceEnabled {
		size = 32 << 20
	}
	for _, pipes := range []int{0, -1, 1} {
		b := &book{targets: []Target{{Addr: serve(t, echo)}}}
		e, at := start(t, Config{Handler: b, MaxPipes: pipes})
		c := dial(t, at)
		sent, got := sha256.New(), sha256.New()
		var wg sync.WaitGroup
		wg.Go(func() {
			src := io.LimitReader(rand.NewChaCha8([32]byte{}), size)
			if _, err := io.CopyBuffer(io.MultiWriter(c, sent), src, make([]byte, 256<<10)); err != nil {
				t.Error(err)
			}
			_ = c.CloseWrite()
		})
		n, err := io.CopyBuffer(got, struct{ io.Reader }{c}, make([]byte, 256<<10))
		wg.Wait()
		if err != nil || n != size || string(sent.Sum(nil)) != string(got.Sum(nil)) {
			t.Fatalf("pipes %d: got %d of %d bytes, or others, %v", pipes, n, size, err)
		}
		if n := e.Counters(); pipes >= 0 != (n.Spliced > 0) {
			t.Errorf("pipes %d: got %+v", pipes, n)
		}
		size = min(size, 64<<20)
	}
}

// TestOrigins: listeners of one Engine are told apart, also those that come later.
func TestOrigins(t *testing.T) {
	b := &book{targets: []Target{{Addr: serve(t, echo)}}}
	e, first := start(t, Config{Handler: b}) // service.FromHost
	want := map[netip.AddrPort]service.Origin{first: service.FromHost}
	for addr, origin := range map[string]service.Origin{
		"127.0.0.1:0": service.FromPod, "[::1]:0": service.FromOutside, "127.0.0.2:0": service.FromOutside,
	} {
		at, err := e.Listen(netip.MustParseAddrPort(addr), origin)
		if err != nil {
			t.Fatal(err)
		}
		want[at] = origin
	}
	for at := range want {
		c := dial(t, at)
		say(t, c, "hello")
		hear(t, c, "hello")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	got := map[netip.AddrPort]service.Origin{}
	for _, tr := range b.trips {
		got[tr.frontend] = tr.origin
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })); d != "" {
		t.Errorf("origins (-want +got):\n%s", d)
	}
}

// TestDeadlines compares the heap with a list that is searched.
func TestDeadlines(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var d deadlines
	var list []*conn
	for range 20_000 {
		switch {
		case len(list) == 0 || rnd.IntN(5) < 3 && len(list) < 100:
			c := &conn{}
			d.add(c, time.Duration(rnd.IntN(50)))
			list = append(list, c)
		default:
			i := rnd.IntN(len(list))
			d.remove(list[i])
			d.remove(list[i]) // does no harm
			list = slices.Delete(list, i, i+1)
		}
		if len(d) != len(list) {
			t.Fatalf("got %d, want %d", len(d), len(list))
		}
		if len(list) == 0 {
			continue
		}
		first := slices.MinFunc(list, func(x, y *conn) int { return cmpx.Compare(x.deadline, y.deadline) })
		if d[0].deadline != first.deadline {
			t.Fatalf("got %v first, want %v", d[0].deadline, first.deadline)
		}
	}
}
