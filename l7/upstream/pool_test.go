package upstream_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/upstream"
)

const noContent = "HTTP/1.1 204 OK\r\n\r\n"

func TestPoolLimits(t *testing.T) {
	cases := []struct {
		name        string
		cfg         upstream.Config
		pause       time.Duration
		connections int64
	}{
		{"none reached", upstream.Config{}, 0, 1},
		{"requests", upstream.Config{MaxRequests: 2}, 0, 3},
		{"age", upstream.Config{MaxAge: time.Millisecond}, 2 * time.Millisecond, 5},
		{"idleness", upstream.Config{IdleTimeout: time.Millisecond}, 3 * time.Millisecond, 5},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := says(t, noContent)
			cl := client(t, c.cfg)
			for range 5 {
				if got := outcome(cl, ask(t, "GET", "/", nil, 0), upstream.Target{Addr: b.addr}); got != "204 0" {
					t.Errorf("outcome %s", got)
				}
				time.Sleep(c.pause)
			}
			if got := b.conns.Load(); got != c.connections {
				t.Errorf("%d connections, want %d", got, c.connections)
			}
		})
	}
}

// TestIdleLimit makes many connections at once, of which few are kept.
func TestIdleLimit(t *testing.T) {
	const many, kept = 20, 3
	var barrier sync.WaitGroup
	barrier.Add(many)
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		barrier.Done()
		barrier.Wait()
		io.WriteString(c, noContent)
		io.Copy(io.Discard, r)
	})
	c := client(t, upstream.Config{Idle: kept})
	var wg sync.WaitGroup
	for range many {
		x := ask(t, "GET", "/", nil, 0)
		wg.Go(func() { outcome(c, x, upstream.Target{Addr: b.addr}) })
	}
	wg.Wait()
	until(t, func() bool { return b.open.Load() == kept })
	if got := c.Stats.Idle.Load(); got != kept {
		t.Errorf("%d connections kept, want %d", got, kept)
	}
	if got := c.Stats.Active.Load(); got != 0 {
		t.Errorf("%d connections active, want 0", got)
	}
	c.Forget(b.addr)
	until(t, func() bool { return b.open.Load() == 0 })
}

// TestSweep closes idle connections without anybody asking.
func TestSweep(t *testing.T) {
	b := says(t, noContent)
	c := client(t, upstream.Config{IdleTimeout: 20 * time.Millisecond})
	outcome(c, ask(t, "GET", "/", nil, 0), upstream.Target{Addr: b.addr})
	until(t, func() bool { return b.open.Load() == 0 })
}

// TestForgetBusy forgets an endpoint while a request is there: it goes on, and its connection is not kept.
func TestForgetBusy(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		asked <- struct{}{}
		<-answer
		io.WriteString(c, noContent)
		io.Copy(io.Discard, r)
	})
	c := client(t, upstream.Config{})
	go func() {
		<-asked
		c.Forget(b.addr)
		close(answer)
	}()
	if got := outcome(c, ask(t, "GET", "/", nil, 0), upstream.Target{Addr: b.addr}); got != "204 0" {
		t.Errorf("outcome %s", got)
	}
	until(t, func() bool { return b.open.Load() == 0 })
}

// TestUnread closes bodies before their end.
func TestUnread(t *testing.T) {
	b := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"+strings.Repeat("a", 100))
	c := client(t, upstream.Config{})
	for range 3 {
		resp, err := c.Do(ask(t, "GET", "/", nil, 0), upstream.Target{Addr: b.addr})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Read(make([]byte, 10))
		resp.Body.Close()
		resp.Body.Close()
		if n, err := resp.Body.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("read %d, %v after Close", n, err)
		}
	}
	if c.Stats.Idle.Load() != 0 || b.conns.Load() != 3 {
		t.Errorf("%d connections kept of %d", c.Stats.Idle.Load(), b.conns.Load())
	}
}

// TestSplice brings large bodies over plain TCP, and wants every byte, by the kernel alone.
func TestSplice(t *testing.T) {
	const size = 5<<20 + 12345
	page := make([]byte, 1<<16)
	for i := range page {
		page[i] = byte(i * 31 >> 3)
	}
	want := sha256.New()
	content := func(w io.Writer) { io.CopyN(w, &repeat{page: page}, size) }
	content(want)
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
			content(c)
		}
	})
	c := client(t, upstream.Config{})
	for range 2 {
		out, in := tcpPair(t)
		sum := make(chan string)
		go func() {
			h := sha256.New()
			io.Copy(h, out)
			sum <- string(h.Sum(nil))
		}()
		resp, err := c.Do(ask(t, "GET", "/", nil, 0), upstream.Target{Addr: b.addr})
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(in, resp.Body)
		if n != size || err != nil {
			t.Errorf("%d bytes, %v, want %d", n, err, size)
		}
		resp.Body.Close()
		in.Close()
		if <-sum != string(want.Sum(nil)) {
			t.Error("the bytes are not those that were sent")
		}
	}
	if got := c.Stats.Spliced.Load(); got < size || b.conns.Load() != 1 {
		t.Errorf("%d bytes spliced on %d connections", got, b.conns.Load())
	}
}

type repeat struct {
	page []byte
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.page[r.at:])
	r.at = (r.at + n) % len(r.page)
	return n, nil
}

// TestSpliceFails tells the endpoint's failure from the client's.
func TestSpliceFails(t *testing.T) {
	const size = 100 << 20
	cases := []struct {
		name   string
		serve  func(c *net.TCPConn)
		client func(c *net.TCPConn)
		theirs bool
	}{
		{"the endpoint closes", func(c *net.TCPConn) { io.CopyN(c, zeros{}, 1<<20) }, func(c *net.TCPConn) { io.Copy(io.Discard, c) }, true},
		{"the endpoint resets", func(c *net.TCPConn) { io.CopyN(c, zeros{}, 1<<20); c.SetLinger(0) }, func(c *net.TCPConn) { io.Copy(io.Discard, c) }, true},
		{"the endpoint hangs", func(c *net.TCPConn) { io.CopyN(c, zeros{}, 1<<20); io.Copy(io.Discard, c) }, func(c *net.TCPConn) { io.Copy(io.Discard, c) }, true},
		{"the client resets", func(c *net.TCPConn) { io.CopyN(c, zeros{}, size) }, func(c *net.TCPConn) { io.CopyN(io.Discard, c, 1<<20); c.SetLinger(0); c.Close() }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := raw(t, func(conn net.Conn, r *bufio.Reader) {
				http.ReadRequest(r)
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
				c.serve(conn.(*net.TCPConn))
			})
			out, in := tcpPair(t)
			go c.client(out)
			x := ask(t, "GET", "/", nil, 0)
			var cancel context.CancelFunc
			if c.name == "the endpoint hangs" { // a step's own time is a minute and more
				x.Context, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
			}
			resp, err := client(t, upstream.Config{}).Do(x, upstream.Target{Addr: b.addr})
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			_, err = io.Copy(in, resp.Body)
			if _, theirs := errors.AsType[*upstream.Error](err); err == nil || theirs != c.theirs {
				t.Errorf("error %v, want the endpoint's: %t", err, c.theirs)
			}
		})
	}
}

// TestLeaks runs many requests of all kinds at once and wants nothing to be left.
func TestLeaks(t *testing.T) {
	files := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(d)
	}
	good := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
	bad := says(t, "HTTP/1.1 200 close-after\r\nContent-Length: 30\r\n\r\nabc")
	worse := raw(t, func(net.Conn, *bufio.Reader) {})
	beforeFiles, before := files(), runtime.NumGoroutine()
	c := upstream.New(upstream.Config{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 100 {
				x := ask(t, "GET", "/", nil, 0)
				to := upstream.Target{Addr: []*backend{good, bad, worse}[(i+j)%3].addr}
				switch j % 4 {
				case 1:
					x.Request.Method, x.Request.Length, x.Request.Body = "POST", -1, strings.NewReader("abc")
				case 2:
					x.Request.Method, x.Request.Length, x.Request.Body = "POST", 1<<20, io.LimitReader(zeros{}, 1<<20)
				case 3:
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(j)*10*time.Microsecond)
					defer cancel()
					x.Context = ctx
				}
				outcome(c, x, to)
			}
		})
	}
	wg.Wait()
	c.Close()
	until(t, func() bool { return good.open.Load()+bad.open.Load()+worse.open.Load() == 0 })
	until(t, func() bool { return runtime.NumGoroutine() <= before && files() <= beforeFiles })
	if a, i := c.Stats.Active.Load(), c.Stats.Idle.Load(); a != 0 || i != 0 {
		t.Errorf("%d active and %d idle connections are left", a, i)
	}
}

// keptGet asks the same endpoint over the same connection.
func keptGet(t testing.TB) func() {
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		buf := make([]byte, 4096)
		answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Mon, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 13\r\n\r\nHello, world!")
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
	c := client(t, upstream.Config{MaxRequests: 1 << 40})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	x := ask(t, "GET", "/a/b/c", nil, 0)
	x.Context = ctx
	buf := make([]byte, 4096)
	return func() {
		x.Tries = x.Tries[:0]
		resp, err := c.Do(x, upstream.Target{Addr: b.addr})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := resp.Body.Read(buf); n != 13 || err != nil {
			t.Fatal(n, err)
		}
		resp.Body.Close()
	}
}

// TestAllocations guards the path that nearly all requests go: the head as one string, its fields, the
// answer, the body, and three for watching the context.
func TestAllocations(t *testing.T) {
	get := keptGet(t)
	get()
	if n := testing.AllocsPerRun(200, get); n > 7 {
		t.Errorf("%v allocations for a request, want 7 at most", n)
	}
}

func BenchmarkGet(b *testing.B) {
	get := keptGet(b)
	b.ReportAllocs()
	for b.Loop() {
		get()
	}
}
