package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// handshake makes one over a pipe and exchanges a byte, and returns what the client sees.
func handshake(t testing.TB, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := net.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var other sync.WaitGroup
	other.Go(func() {
		s := tls.Server(a, server)
		if s.HandshakeContext(ctx) == nil {
			_, _ = s.Write([]byte{1}) // behind the tickets
		}
		_ = s.Close()
	})
	defer other.Wait()
	defer b.Close()
	c := tls.Client(b, client)
	if err := c.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, err
	}
	var one [1]byte
	if _, err := io.ReadFull(c, one[:]); err != nil {
		return tls.ConnectionState{}, err
	}
	state := c.ConnectionState()
	return state, nil
}

func TestServerConfig(t *testing.T) {
	table := NewTable()
	table.Set(map[string][]*Pair{"a.example": {newPair(t, "ecdsa", "a.example")}}, Default{})
	gcm := tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
	for _, c := range []struct {
		name     string
		settings Settings
		client   *tls.Config
		want     string
		warnings int
	}{
		{"defaults", Settings{}, &tls.Config{}, "TLS 1.3 h2", 0},
		{"TLS 1.2", Settings{}, &tls.Config{MaxVersion: tls.VersionTLS12}, "TLS 1.2 h2", 0},
		{"TLS 1.1", Settings{}, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "protocol version not supported", 0},
		{"TLS 1.1 allowed", Settings{MinVersion: tls.VersionTLS11}, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "TLS 1.1 h2", 0},
		{"only 1.3", Settings{MinVersion: tls.VersionTLS13}, &tls.Config{MaxVersion: tls.VersionTLS12}, "protocol version not supported", 0},
		{"only 1.2", Settings{MaxVersion: tls.VersionTLS12}, &tls.Config{}, "TLS 1.2 h2", 0},
		{"no h2", Settings{NoHTTP2: true}, &tls.Config{}, "TLS 1.3 http/1.1", 0},
		{"suites for h2", Settings{Ciphers: []uint16{gcm}}, &tls.Config{}, "TLS 1.3 h2", 0},
		{"suites not for h2", Settings{Ciphers: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}}, &tls.Config{}, "TLS 1.3 http/1.1", 1},
		{"suites do not matter", Settings{MinVersion: tls.VersionTLS13, Ciphers: []uint16{}}, &tls.Config{}, "TLS 1.3 h2", 0},
		{"unknown name", Settings{}, &tls.Config{ServerName: "b.example"}, "unrecognized name", 0},
	} {
		config, warnings := ServerConfig(c.settings, table)
		if len(warnings) != c.warnings {
			t.Errorf("%s: warnings %q, want %d", c.name, warnings, c.warnings)
		}
		client := c.client.Clone()
		client.InsecureSkipVerify, client.NextProtos = true, []string{"h2", "http/1.1"}
		if client.ServerName == "" {
			client.ServerName = "a.example"
		}
		got := ""
		if state, err := handshake(t, config, client); err != nil {
			got = err.Error()
		} else {
			got = tls.VersionName(state.Version) + " " + state.NegotiatedProtocol
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestParseSettings(t *testing.T) {
	suites, warnings := ParseCiphers("ECDHE-ECDSA-AES128-GCM-SHA256:TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256," +
		"ECDHE-RSA-CHACHA20-POLY1305 AES128-SHA:ECDHE-RSA-AES128-SHA:DHE-RSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256:TLS_RSA_WITH_RC4_128_SHA:" +
		"ecdhe-ecdsa-aes128-gcm-sha256")
	var names []string
	for _, s := range suites {
		names = append(names, tls.CipherSuiteName(s))
	}
	want := []string{
		"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
		"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
	}
	if diff := cmp.Diff(names, want); diff != "" {
		t.Errorf("suites (-got +want):\n%s", diff)
	}
	wantWarnings := []string{
		"AES128-SHA is not secure",
		`there is no cipher suite "DHE-RSA-AES128-GCM-SHA256"`,
		"TLS_AES_128_GCM_SHA256 is of TLS 1.3, whose suites are always on",
		"TLS_RSA_WITH_RC4_128_SHA is broken and left out",
	}
	if diff := cmp.Diff(warnings, wantWarnings); diff != "" {
		t.Errorf("warnings (-got +want):\n%s", diff)
	}
	curves, warnings := ParseCurves("X25519:prime256v1,secp384r1 auto:brainpool:x25519")
	if diff := cmp.Diff(curves, []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384}); diff != "" || len(warnings) != 1 {
		t.Errorf("curves, warnings %q (-got +want):\n%s", warnings, diff)
	}
	for _, c := range []struct {
		in        string
		low, high uint16
	}{
		{"TLSv1.2 TLSv1.3", tls.VersionTLS12, tls.VersionTLS13}, {"TLSv1.3", tls.VersionTLS13, tls.VersionTLS13},
		{"tlsv1 TLSv1.1", tls.VersionTLS10, tls.VersionTLS11}, {"", 0, 0}, {"SSLv3", 0, 0}, {"TLSv1.2 SSLv3", 0, 0},
	} {
		low, high, err := ParseVersions(c.in)
		if low != c.low || high != c.high || (err == nil) != (c.low != 0) {
			t.Errorf("ParseVersions(%q) = %x, %x, %v, want %x, %x", c.in, low, high, err, c.low, c.high)
		}
	}
}

// resumes reports whether a session made with one server is resumed by another.
func resumes(t *testing.T, one, other *tls.Config) bool {
	t.Helper()
	client := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	for i, server := range []*tls.Config{one, other} {
		state, err := handshake(t, server, client)
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			return state.DidResume
		}
	}
	return false
}

func TestTickets(t *testing.T) {
	table := NewTable()
	table.Set(nil, Default{Pairs: []*Pair{newPair(t, "ecdsa", "a.example")}})
	secret := []byte(strings.Repeat("s", 32))
	node := func(domain string, secret []byte) *tls.Config {
		t.Helper()
		tickets, err := NewTickets(domain, secret)
		if err != nil {
			t.Fatal(err)
		}
		config, warnings := ServerConfig(Settings{Tickets: tickets}, table)
		if len(warnings) > 0 {
			t.Fatal(warnings)
		}
		return config
	}
	off, _ := ServerConfig(Settings{}, table)
	random := node("", nil)
	for _, c := range []struct {
		name       string
		one, other *tls.Config
		want       bool
	}{
		{"one node, random keys", random, random, true},
		{"two nodes, random keys", random, node("", nil), false},
		{"two nodes, one secret", node("", secret), node("", secret), true},
		{"two secrets", node("", secret), node("", []byte(strings.Repeat("t", 32))), false},
		{"two trust domains, one secret", node("", secret), node("ca-1", secret), false},
		{"off", off, off, false},
	} {
		if got := resumes(t, c.one, c.other); got != c.want {
			t.Errorf("%s: resumed %v, want %v", c.name, got, c.want)
		}
	}
	if _, err := NewTickets("", []byte("short")); err == nil {
		t.Error("a short secret passes")
	}
}

func TestTicketRotation(t *testing.T) {
	for _, secret := range [][]byte{nil, []byte(strings.Repeat("s", 32))} {
		synctest.Test(t, func(t *testing.T) {
			tickets, err := NewTickets("d", secret)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() {
				if err := tickets.Run(ctx); err != nil {
					t.Error(err)
				}
			})
			keys := func() [][32]byte {
				synctest.Wait()
				tickets.mu.Lock()
				defer tickets.mu.Unlock()
				k, err := tickets.keys(time.Now())
				if err != nil {
					t.Fatal(err)
				}
				return k
			}
			first := keys()
			opens := func() bool {
				for _, k := range keys()[:min(kept, len(keys()))] {
					if k == first[0] {
						return true
					}
				}
				return false
			}
			time.Sleep(time.Minute)
			if keys()[0] != first[0] {
				t.Error("the key has changed within 12 h")
			}
			for n := range 5 {
				time.Sleep(rotation)
				if keys()[0] == first[0] {
					t.Errorf("the key is still the same after %d x 12 h", n+1)
				}
				if got := len(keys()); secret == nil && got > kept {
					t.Errorf("%d random keys are kept, want %d", got, kept)
				}
				if got, want := opens(), n < kept-1; got != want {
					t.Errorf("after %d x 12 h the first key opens tickets: %v, want %v", n+1, got, want)
				}
			}
			if secret != nil {
				ahead, err := NewTickets("d", secret)
				if err != nil {
					t.Fatal(err)
				}
				k, err := ahead.keys(time.Now().Add(rotation))
				if err != nil || k[0] != keys()[kept] {
					t.Errorf("a node whose clock is ahead makes tickets that nobody opens, %v", err)
				}
			}
			cancel()
			running.Wait()
		})
	}
}

// TestRotation replaces certificates under load: no handshake fails, no connection that
// stands is cut, and the new one is in force at once.
func TestRotation(t *testing.T) {
	pairs := []*Pair{newPair(t, "ecdsa", "a.example"), newPair(t, "ecdsa", "a.example")}
	table := NewTable()
	table.Set(map[string][]*Pair{"a.example": pairs[:1]}, Default{})
	tickets, err := NewTickets("", nil)
	if err != nil {
		t.Fatal(err)
	}
	limiter := NewLimiter(0, 0)
	config, _ := ServerConfig(Settings{Tickets: tickets, Limiter: limiter}, table)
	addr, stop := echo(t, config, limiter)
	client := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true}
	dial := func() (*tls.Conn, error) {
		return tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, client)
	}
	long, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	var load sync.WaitGroup
	var done atomic.Bool
	var made atomic.Int64
	for range 4 {
		load.Go(func() {
			for !done.Load() {
				c, err := dial()
				if err == nil {
					err = errors.Join(ping(c), c.Close())
				}
				if err != nil {
					t.Errorf("a connection during rotation: %v", err)
					return
				}
				made.Add(1)
			}
		})
	}
	for n := 0; made.Load() < 200 && !t.Failed(); n++ {
		table.Update(map[string][]*Pair{"a.example": {pairs[n%2]}})
		if n%50 == 0 {
			if err := tickets.Renew(time.Now().Add(time.Duration(n) * rotation)); err != nil {
				t.Error(err)
			}
		}
		if err := ping(long); err != nil {
			t.Fatalf("the connection that stands: %v", err)
		}
	}
	done.Store(true)
	load.Wait()
	for _, p := range pairs {
		table.Update(map[string][]*Pair{"a.example": {p}})
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		if !c.ConnectionState().PeerCertificates[0].Equal(p.Certificate.Leaf) {
			t.Error("a new connection got the certificate from before")
		}
		c.Close()
	}
	long.Close()
	stop()
	if n := len(limiter.turns); n != 0 {
		t.Errorf("%d turns are still held", n)
	}
}

// ping sends a byte and waits for it to come back.
func ping(c net.Conn) error {
	if _, err := c.Write([]byte{7}); err != nil {
		return err
	}
	var b [1]byte
	_, err := io.ReadFull(c, b[:])
	return err
}

// echo serves TLS on loopback until stop is called.
func echo(t *testing.T, config *tls.Config, limiter *Limiter) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				c := tls.Server(limiter.Wrap(conn), config)
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	return l.Addr().String(), func() {
		l.Close()
		conns.Wait() // connections end with their clients
	}
}

func TestLimiter(t *testing.T) {
	table := NewTable()
	table.Set(nil, Default{Pairs: []*Pair{newPair(t, "ecdsa", "a.example")}})
	synctest.Test(t, func(t *testing.T) {
		limiter := NewLimiter(2, time.Second)
		config, _ := ServerConfig(Settings{Limiter: limiter}, table)
		start := func(slow bool) (finish func(), result chan error) {
			a, b := net.Pipe()
			result = make(chan error, 1)
			go func() {
				s := tls.Server(limiter.Wrap(a), config)
				err := s.HandshakeContext(t.Context())
				_ = s.Close()
				result <- err
			}()
			finish = func() { _ = b.Close() }
			go func() {
				c := tls.Client(b, &tls.Config{InsecureSkipVerify: true})
				if slow {
					// Sends its hello and reads nothing: a pipe has no buffer, so the server
					// hangs in its answer as if it computed for ever.
					c = tls.Client(&deaf{Conn: b, closed: t.Context().Done()}, &tls.Config{InsecureSkipVerify: true})
				}
				if c.HandshakeContext(t.Context()) == nil {
					_, _ = io.Copy(io.Discard, c)
				}
			}()
			return finish, result
		}
		one, r1 := start(true)
		two, r2 := start(true)
		synctest.Wait()
		if got := len(limiter.turns); got != 2 {
			t.Fatalf("%d turns are held, want 2", got)
		}
		_, r3 := start(false)
		synctest.Wait()
		time.Sleep(time.Second)
		if err := <-r3; !errors.Is(err, ErrBusy) || limiter.Refused() != 1 {
			t.Errorf("the third handshake: %v, %d refused; want %v, 1", err, limiter.Refused(), ErrBusy)
		}
		four, r4 := start(false)
		time.Sleep(time.Second / 2)
		one()
		if err := <-r4; err != nil {
			t.Errorf("the fourth handshake, after the first has gone: %v", err)
		}
		two()
		four()
		if <-r1 == nil || <-r2 == nil {
			t.Error("a handshake that was left ended well")
		}
		if got := len(limiter.turns); got != 0 {
			t.Errorf("%d turns are held at the end, want 0", got)
		}
	})
}

// A deaf connection reads nothing.
type deaf struct {
	net.Conn
	closed <-chan struct{}
}

func (d *deaf) Read([]byte) (int, error) {
	<-d.closed
	return 0, io.EOF
}

// TestLimiterWaitingClients: clients that are slow to go on hold no turn.
func TestLimiterWaitingClients(t *testing.T) {
	table := NewTable()
	table.Set(nil, Default{Pairs: []*Pair{newPair(t, "ecdsa", "a.example")}})
	limiter := NewLimiter(1, time.Minute)
	config, _ := ServerConfig(Settings{Limiter: limiter}, table)
	addr, stop := echo(t, config, limiter)
	defer stop()
	for range 5 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(clientHello(t, &tls.Config{InsecureSkipVerify: true})); err != nil {
			t.Fatal(err)
		}
		// Our first flight has come; now the server waits for us.
		if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatalf("a handshake beside five that wait: %v", err)
	}
	if err := errors.Join(ping(c), c.Close()); err != nil {
		t.Error(err)
	}
}

func TestUnwrap(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := NewLimiter(0, 0).Wrap(a).(interface{ Unwrap() net.Conn }).Unwrap(); got != a {
		t.Error("Unwrap returns " + fmt.Sprint(got))
	}
}
