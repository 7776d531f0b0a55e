package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/upstream"
)

// failure asks and wants an *Error.
func failure(t *testing.T, c *upstream.Client, x *exchange.Exchange, to upstream.Target) *upstream.Error {
	t.Helper()
	resp, err := c.Do(x, to)
	if err == nil {
		resp.Body.Close()
		t.Fatalf("status %d, want an error", resp.Status)
	}
	e, ok := errors.AsType[*upstream.Error](err)
	if !ok {
		t.Fatalf("error %T %v, want an *Error", err, err)
	}
	return e
}

// deaf is an endpoint that accepts and never says anything.
func deaf(t *testing.T) *backend {
	return raw(t, func(c net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
}

func TestNoEndpoint(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := addrOf(l.Addr())
	l.Close()
	x := ask(t, "GET", "/", nil, 0)
	e := failure(t, client(t, upstream.Config{}), x, upstream.Target{Addr: addr})
	if e.Phase != upstream.Dial || e.Sent || e.Timeout || e.Canceled {
		t.Errorf("error %+v, want dial", e)
	}
	if len(x.Tries) != 1 || x.Tries[0].Endpoint != addr || x.Tries[0].Err == nil || x.Tries[0].Total == 0 {
		t.Errorf("tries %+v", x.Tries)
	}
}

// TestTooSlow has endpoints that keep us waiting.
func TestTooSlow(t *testing.T) {
	short := upstream.Timeouts{Connect: 50 * time.Millisecond, Read: 50 * time.Millisecond, Write: 50 * time.Millisecond}
	hang := upstream.Config{Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	half := raw(t, func(c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nX")
		io.Copy(io.Discard, r)
	})
	stuck := raw(t, func(c net.Conn, r *bufio.Reader) { <-t.Context().Done() })
	cases := []struct {
		name  string
		cfg   upstream.Config
		to    netip.AddrPort
		body  io.Reader
		phase upstream.Phase
		sent  bool
	}{
		{"dial", hang, half.addr, nil, upstream.Dial, false},
		{"no head", upstream.Config{}, deaf(t).addr, nil, upstream.Head, true},
		{"half a head", upstream.Config{}, half.addr, nil, upstream.Head, true},
		{"request not taken", upstream.Config{}, stuck.addr, io.LimitReader(zeros{}, 1<<30), upstream.Write, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			x := ask(t, "POST", "/", c.body, 0)
			if c.body != nil {
				x.Request.Length = 1 << 30
			}
			timeouts := short
			if c.phase != upstream.Dial {
				timeouts.Connect = 10 * time.Second // on a busy machine that may take its time
			}
			began := time.Now()
			e := failure(t, client(t, c.cfg), x, upstream.Target{Addr: c.to, Timeouts: timeouts})
			if e.Phase != c.phase || e.Sent != c.sent || !e.Timeout || e.Canceled {
				t.Errorf("error %+v, want a timeout in phase %s", e, c.phase)
			}
			if took := time.Since(began); took < 50*time.Millisecond || took > 5*time.Second {
				t.Errorf("after %v", took)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestSlowUpload sends a body for longer than the endpoint may take to answer.
func TestSlowUpload(t *testing.T) {
	b := says(t, "HTTP/1.1 204 OK\r\n\r\n")
	r, w := io.Pipe()
	go func() {
		for range 10 {
			io.WriteString(w, "a")
			time.Sleep(20 * time.Millisecond)
		}
		w.Close()
	}()
	x := ask(t, "POST", "/", r, -1)
	got := outcome(client(t, upstream.Config{}), x, upstream.Target{Addr: b.addr, Timeouts: upstream.Timeouts{Read: 50 * time.Millisecond}})
	if got != "204 0" {
		t.Errorf("outcome %s", got)
	}
}

// TestGap has a body that stops, and one that trickles.
func TestGap(t *testing.T) {
	trickle := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
		for range 5 {
			io.WriteString(c, "a")
			time.Sleep(40 * time.Millisecond)
		}
		<-t.Context().Done()
	})
	to := upstream.Target{Addr: trickle.addr, Timeouts: upstream.Timeouts{Read: 100 * time.Millisecond}}
	if got, want := outcome(client(t, upstream.Config{}), ask(t, "GET", "/", nil, 0), to), `200 10 body="aaaaa" body: read tcp`; !strings.HasPrefix(got, want) || !strings.Contains(got, "timeout") {
		t.Errorf("outcome %s, want %s", got, want)
	}
}

// TestCancel has clients that leave at every point.
func TestCancel(t *testing.T) {
	begun := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
		io.Copy(io.Discard, r)
	})
	big := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
		io.Copy(c, zeros{})
	})
	hang := upstream.Config{Dial: func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	drain, sink := tcpPair(t)
	go io.Copy(io.Discard, drain)
	stuck := raw(t, func(c net.Conn, r *bufio.Reader) { <-t.Context().Done() })
	read := func(r io.Reader) error { _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); return err }
	splice := func(r io.Reader) error { _, err := io.Copy(sink, r); return err }
	cases := []struct {
		name string
		cfg  upstream.Config
		to   netip.AddrPort
		body io.Reader
		read func(io.Reader) error
	}{
		{"dial", hang, begun.addr, nil, nil},
		{"head", upstream.Config{}, deaf(t).addr, nil, nil},
		{"sending", upstream.Config{}, stuck.addr, zeros{}, nil},
		{"body", upstream.Config{}, begun.addr, nil, read},
		{"splice", upstream.Config{}, big.addr, nil, splice},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cl := client(t, c.cfg)
			x := ask(t, "POST", "/", c.body, 0)
			if c.body != nil {
				x.Request.Length = -1
			}
			var cancel context.CancelFunc
			x.Context, cancel = context.WithCancel(t.Context())
			defer cancel()
			if c.read == nil {
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			began := time.Now()
			resp, err := cl.Do(x, upstream.Target{Addr: c.to})
			if c.read != nil {
				if err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(50*time.Millisecond, cancel)
				err = c.read(resp.Body)
				resp.Body.Close()
			}
			e, ok := errors.AsType[*upstream.Error](err)
			if !ok || !e.Canceled || e.Timeout || !errors.Is(err, context.Canceled) {
				t.Errorf("error %+v, want one of a client that has gone", err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("noticed after %v", took)
			}
		})
	}
}

// tcpPair returns the ends of a connection.
func tcpPair(t testing.TB) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// TestStale has an endpoint close a kept connection: before it is wanted, and just when it is.
func TestStale(t *testing.T) {
	var closing atomic.Bool
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(r); err != nil || closing.Swap(false) {
				return
			}
			io.WriteString(c, "HTTP/1.1 204 OK\r\n\r\n")
		}
	})
	c := client(t, upstream.Config{})
	to := upstream.Target{Addr: b.addr}
	if got := outcome(c, ask(t, "GET", "/", nil, 0), to); got != "204 0" {
		t.Fatal(got)
	}
	closing.Store(true)
	e := failure(t, c, ask(t, "GET", "/", nil, 0), to)
	if e.Phase != upstream.Head || !e.Sent || !e.Reused || e.Answered || e.Timeout {
		t.Errorf("error %+v, want that of a kept connection which was closing", e)
	}
	to.Fresh = true
	if got := outcome(c, ask(t, "GET", "/", nil, 0), to); got != "204 0" || b.conns.Load() != 2 {
		t.Errorf("outcome %s on connection %d, want a new one", got, b.conns.Load())
	}
}

// TestClosedInPool has the endpoint close while the connection is idle: nobody notices.
func TestClosedInPool(t *testing.T) {
	b := says(t, "HTTP/1.1 200 close-after\r\nContent-Length: 0\r\n\r\n")
	c := client(t, upstream.Config{})
	for range 5 {
		if got := outcome(c, ask(t, "GET", "/", nil, 0), upstream.Target{Addr: b.addr}); got != "200 0" {
			t.Errorf("outcome %s", got)
		}
		until(t, func() bool { return b.open.Load() == 0 })
		time.Sleep(time.Millisecond) // for the FIN on loopback
	}
	if got := c.Stats.Stale.Load(); got != 4 {
		t.Errorf("%d stale connections, want 4", got)
	}
}

// TestUnsolicited has an endpoint say something nobody has asked for, which must not be the next one's answer.
func TestUnsolicited(t *testing.T) {
	said := make(chan struct{})
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 204 OK\r\n\r\n")
		time.Sleep(20 * time.Millisecond)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		said <- struct{}{}
		io.Copy(io.Discard, r)
	})
	c := client(t, upstream.Config{})
	for range 2 {
		if got := outcome(c, ask(t, "GET", "/", nil, 0), upstream.Target{Addr: b.addr}); got != "204 0" {
			t.Errorf("outcome %s", got)
		}
		<-said
	}
	if c.Stats.Unexpected.Load() != 1 {
		t.Errorf("%d connections with unexpected bytes, want 1", c.Stats.Unexpected.Load())
	}
}

// until waits for a condition that comes true by itself.
func until(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited for too long")
		}
	}
}

// TestClientBody has clients that do not deliver what they have announced; the endpoint must not take the part for the whole.
func TestClientBody(t *testing.T) {
	broken := errors.New("the client has broken off")
	cases := []struct {
		name   string
		body   io.Reader
		length int64
		want   error
	}{
		{"broken sized", io.MultiReader(strings.NewReader("abc"), failing{broken}), 10, broken},
		{"broken chunked", io.MultiReader(strings.NewReader("abc"), failing{broken}), -1, broken},
		{"short", strings.NewReader("abc"), 10, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			whole := make(chan bool, 1)
			b := raw(t, func(conn net.Conn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil {
					whole <- false
					return
				}
				_, err = io.ReadAll(req.Body)
				whole <- err == nil
			})
			e := failure(t, client(t, upstream.Config{}), ask(t, "POST", "/", c.body, c.length), upstream.Target{Addr: b.addr})
			if e.Phase != upstream.Request || !e.Sent || !e.BodyRead || c.want != nil && !errors.Is(e, c.want) {
				t.Errorf("error %+v, want one in phase request", e)
			}
			if <-whole {
				t.Error("the endpoint got a whole body")
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A waiting body is one whose client says nothing until interrupted.
type waiting struct {
	first string
	done  chan struct{}
	calls atomic.Int32
}

func (w *waiting) Read(p []byte) (int, error) {
	if w.first != "" {
		n := copy(p, w.first)
		w.first = w.first[n:]
		return n, nil
	}
	<-w.done
	return 0, errors.New("interrupted")
}

func (w *waiting) Interrupt() {
	w.calls.Add(1)
	close(w.done)
}

// TestEarlyAnswer has endpoints that answer before they have the whole request.
func TestEarlyAnswer(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\nabc",
	} {
		b := raw(t, func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(c, answer)
			if strings.Contains(answer, "close") {
				c.(*net.TCPConn).CloseWrite()
			}
			io.Copy(io.Discard, r)
		})
		c := client(t, upstream.Config{})
		body := &waiting{first: "part", done: make(chan struct{})}
		x := ask(t, "POST", "/", body, 100)
		if got := outcome(c, x, upstream.Target{Addr: b.addr}); !strings.HasPrefix(got, "413 ") || !strings.HasSuffix(got, `body="abc"`) {
			t.Errorf("outcome %s", got)
		}
		if body.calls.Load() != 1 || c.Stats.Idle.Load() != 0 {
			t.Errorf("interrupted %d times, %d connections kept, want 1 and 0", body.calls.Load(), c.Stats.Idle.Load())
		}
	}
}

// TestRefusedUpload answers and slams the door while a large body is on its way.
func TestRefusedUpload(t *testing.T) {
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
		c.(*net.TCPConn).CloseWrite()
		io.CopyN(io.Discard, r, 1<<20)
	})
	for range 20 {
		x := ask(t, "POST", "/", io.LimitReader(zeros{}, 1<<28), 1<<28)
		if got := outcome(client(t, upstream.Config{}), x, upstream.Target{Addr: b.addr}); got != "413 0" {
			t.Errorf("outcome %s", got)
		}
	}
}

// TestDuplex echoes while both directions are open.
func TestDuplex(t *testing.T) {
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		one := make([]byte, 1)
		for {
			if _, err := req.Body.Read(one); err != nil {
				break
			}
			io.WriteString(c, "1\r\n"+string(one)+"\r\n")
		}
		io.WriteString(c, "0\r\n\r\n")
		io.Copy(io.Discard, r)
	})
	c := client(t, upstream.Config{})
	r, w := io.Pipe()
	resp, err := c.Do(ask(t, "POST", "/", r, -1), upstream.Target{Addr: b.addr})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	for _, s := range []string{"a", "b", "c"} {
		io.WriteString(w, s)
		if n, err := resp.Body.Read(buf); string(buf[:n]) != s || err != nil {
			t.Errorf("echo %q, %v, want %q", buf[:n], err, s)
		}
	}
	w.Close()
	if n, err := resp.Body.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v, want the end", n, err)
	}
	resp.Body.Close()
	if c.Stats.Idle.Load() != 1 {
		t.Error("the connection was not kept")
	}
}

// TestReplay sends a body in memory twice.
func TestReplay(t *testing.T) {
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(req.Body)
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"+string(body[:3]))
	})
	for _, size := range []int64{10, 20 << 10, 1 << 20} {
		x := ask(t, "POST", "/", bytes.NewReader(append([]byte("abc"), make([]byte, size-3)...)), size)
		for range 2 {
			if got := outcome(client(t, upstream.Config{}), x, upstream.Target{Addr: b.addr}); got != `200 -1 body="abc"` {
				t.Errorf("outcome %s", got)
			}
		}
	}
}
