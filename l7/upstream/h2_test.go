package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/upstream"
)

// h2c starts a server that speaks HTTP/2 in plain text and nothing else.
func h2c(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// grpc echoes messages as a gRPC server does: full duplex, its verdict in the trailers.
func grpc(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("X-Saw", fmt.Sprint(r.Method, r.RequestURI, r.Host, r.Header.Get("Te"), r.Header.Get("X-One"), r.Header["User-Agent"], r.Proto))
	w.Header().Set("Trailer", "Grpc-Status")
	http.NewResponseController(w).Flush()
	buf := make([]byte, 1024)
	for {
		n, err := r.Body.Read(buf)
		w.Write(buf[:n])
		http.NewResponseController(w).Flush()
		if err != nil {
			break
		}
	}
	w.Header().Set("Grpc-Status", "0")
	w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
}

func TestGRPC(t *testing.T) {
	plain := h2c(t, grpc)
	tlsServer, roots := secure(t, true, nil, grpc)
	targets := map[string]upstream.Target{
		"plain": {Addr: addrOf(plain.Listener.Addr()), Protocol: upstream.GRPC},
		"tls":   {Addr: addrOf(tlsServer.Listener.Addr()), Protocol: upstream.GRPCS, TLS: upstream.TLSConfig(upstream.TLSOptions{Verify: true, Roots: roots, Name: "example.com"})},
	}
	for name, to := range targets {
		t.Run(name, func(t *testing.T) {
			c := client(t, upstream.Config{})
			for range 3 {
				r, w := io.Pipe()
				x := ask(t, "POST", "//pkg.Service/Call%2f", r, -1)
				x.Request.HasQuery, x.Request.Trailers = true, true
				resp, err := c.Do(x, to)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := resp.Header.Get("x-saw"), "POST//pkg.Service/Call%2f?app.exampletrailers1[]HTTP/2.0"; got != want {
					t.Errorf("the endpoint saw %s, want %s", got, want)
				}
				buf := make([]byte, 100)
				for _, s := range []string{"one", "two"} {
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
				if got := resp.Trailer.Get("grpc-status") + resp.Trailer.Get("grpc-message"); got != "0fine" {
					t.Errorf("trailers %v", *resp.Trailer)
				}
				if x.Tries[0].Status != 200 || x.Tries[0].Total < x.Tries[0].Header {
					t.Errorf("try %+v", x.Tries[0])
				}
			}
			if c.Stats.Dials.Load() != 1 {
				t.Errorf("%d connections, want 1", c.Stats.Dials.Load())
			}
		})
	}
}

func TestH2Failures(t *testing.T) {
	hang := h2c(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			io.WriteString(w, "abc")
			http.NewResponseController(w).Flush()
		}
		if r.URL.Path == "/abort" {
			io.WriteString(w, "abc")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done()
	})
	h1only := says(t, "HTTP/1.1 400 close-after\r\n\r\n")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	short := upstream.Timeouts{Read: 60 * time.Millisecond, Connect: 10 * time.Millisecond}
	cases := []struct {
		name, path string
		to         upstream.Target
		cancel     time.Duration
		body       io.Reader
		phase      upstream.Phase
		timeout    bool
	}{
		{"refused", "/", upstream.Target{Addr: addrOf(closed.Addr())}, 0, nil, upstream.Dial, false},
		{"not HTTP/2", "/", upstream.Target{Addr: h1only.addr}, 0, nil, upstream.Head, false},
		{"no head", "/", upstream.Target{Addr: addrOf(hang.Listener.Addr()), Timeouts: short}, 0, nil, upstream.Head, true},
		{"no body", "/body", upstream.Target{Addr: addrOf(hang.Listener.Addr()), Timeouts: short}, 0, nil, upstream.Body, true},
		{"reset", "/abort", upstream.Target{Addr: addrOf(hang.Listener.Addr())}, 0, nil, upstream.Body, false},
		{"client leaves before the head", "/", upstream.Target{Addr: addrOf(hang.Listener.Addr())}, 30 * time.Millisecond, nil, upstream.Head, false},
		{"client leaves in the body", "/body", upstream.Target{Addr: addrOf(hang.Listener.Addr())}, 30 * time.Millisecond, nil, upstream.Body, false},
		{"client breaks off", "/", upstream.Target{Addr: addrOf(hang.Listener.Addr())}, 0, io.MultiReader(strings.NewReader("a"), failing{io.ErrUnexpectedEOF}), upstream.Request, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.to.Protocol = upstream.H2C
			x := ask(t, "POST", c.path, c.body, 0)
			if c.body != nil {
				x.Request.Length = -1
			}
			var cancel context.CancelFunc
			x.Context, cancel = context.WithCancel(t.Context())
			defer cancel()
			if c.cancel > 0 {
				time.AfterFunc(c.cancel, cancel)
			}
			resp, err := client(t, upstream.Config{}).Do(x, c.to)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			e, ok := errors.AsType[*upstream.Error](err)
			if !ok || e.Phase != c.phase || e.Timeout != c.timeout || e.Canceled != (c.cancel > 0) {
				t.Errorf("error %+v, want one in phase %s, timeout %t", err, c.phase, c.timeout)
			}
		})
	}
}

// An awaited body is a waiting one that says when it is waited for.
type awaited struct {
	waiting
	once  sync.Once
	began chan struct{}
}

func (a *awaited) Read(p []byte) (int, error) {
	if a.first == "" {
		a.once.Do(func() { close(a.began) })
	}
	return a.waiting.Read(p)
}

// TestH2EarlyAnswer ends a request whose body has not come yet.
func TestH2EarlyAnswer(t *testing.T) {
	body := &awaited{waiting: waiting{first: "part", done: make(chan struct{})}, began: make(chan struct{})}
	s := h2c(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "HEAD" {
			w.Header().Set("Content-Length", "5")
		}
		<-body.began
		w.WriteHeader(403)
	})
	c := client(t, upstream.Config{})
	resp, err := c.Do(ask(t, "POST", "/", body, 100), upstream.Target{Addr: addrOf(s.Listener.Addr()), Protocol: upstream.GRPC})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Status != 403 || read(t, resp) != "" {
		t.Errorf("status %d", resp.Status)
	}
	if body.calls.Load() != 1 {
		t.Errorf("interrupted %d times, want 1", body.calls.Load())
	}
	resp, err = c.Do(ask(t, "HEAD", "/", nil, 0), upstream.Target{Addr: addrOf(s.Listener.Addr()), Protocol: upstream.GRPC})
	if err != nil || resp.Length != 5 || resp.Body != nil {
		t.Errorf("answer to HEAD %+v, %v", resp, err)
	}
}

// TestH2Many has many requests share few connections, and Forget close them.
func TestH2Many(t *testing.T) {
	var open sync.Map
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ConnState = func(c net.Conn, st http.ConnState) {
		if st == http.StateClosed {
			open.Delete(c)
		} else {
			open.Store(c, true)
		}
	}
	s.Start()
	defer s.Close()
	c := client(t, upstream.Config{})
	to := upstream.Target{Addr: addrOf(s.Listener.Addr()), Protocol: upstream.GRPC}
	if _, err := c.Do(ask(t, "GET", "/", nil, 0), to); err != nil { // at once, each would dial
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			want := strings.Repeat(fmt.Sprint(i), 10000)
			x := ask(t, "POST", "/", bytes.NewReader([]byte(want)), int64(len(want)))
			resp, err := c.Do(x, to)
			if err != nil {
				t.Error(err)
				return
			}
			if got := read(t, resp); got != want {
				t.Errorf("%d bytes back, want %d", len(got), len(want))
			}
		})
	}
	wg.Wait()
	if d := c.Stats.Dials.Load(); d > 5 {
		t.Errorf("%d connections for 50 requests at once", d)
	}
	c.Forget(to.Addr)
	until(t, func() bool {
		n := 0
		open.Range(func(any, any) bool { n++; return true })
		return n == 0
	})
}

func TestH2Interim(t *testing.T) {
	s := h2c(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(103)
		w.WriteHeader(204)
	})
	x := ask(t, "GET", "/", nil, 0)
	var got exchange.Header
	x.Interim = func(_ int, h exchange.Header) { got = h }
	if _, err := client(t, upstream.Config{}).Do(x, upstream.Target{Addr: addrOf(s.Listener.Addr()), Protocol: upstream.GRPC}); err != nil {
		t.Fatal(err)
	}
	if got.Get("Link") != "</a.css>" {
		t.Errorf("interim answer %v", got)
	}
}
