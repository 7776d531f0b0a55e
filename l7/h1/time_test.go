package h1_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange/exchangetest"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// pipes is a listener whose connections are in memory, where time can be a fake.
type pipes struct {
	cfg   *h1.Config
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return h1.NewGate(c, p.cfg), nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// timed runs test in a bubble of fake time with a client's connection to a server behind a Gate.
func timed(t *testing.T, cfg *h1.Config, handler http.HandlerFunc, test func(t *testing.T, c net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &pipes{cfg: cfg, conns: make(chan net.Conn), done: make(chan struct{})}
		s := &http.Server{Handler: handler}
		cfg.Configure(s)
		var wg sync.WaitGroup
		wg.Go(func() { s.Serve(l) })
		client, server := net.Pipe()
		l.conns <- server
		test(t, client)
		client.Close()
		s.Close()
		wg.Wait()
		time.Sleep(time.Hour) // for those who wait for something; it costs nothing
	})
}

// echoes is a server of echo behind a Gate.
func echoes() exchangetest.Echo {
	return exchangetest.Echo{
		Timed: func(t *testing.T, takes time.Duration, test func(*testing.T, net.Conn)) {
			t.Helper()
			timed(t, h1.Defaults(), func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(takes)
				echo(w, r)
			}, test)
		},
		Says: func(method, path, body string) string {
			s := "200 " + method + " " + path + " HTTP/1.1 host=a"
			if body != "" {
				s += fmt.Sprintf(" body=%q", body)
			}
			return s
		},
		Late: func(part string) string { return "408 slow-" + part },
	}
}

func TestTooSlow(t *testing.T)  { echoes().TooSlow(t) }
func TestPatience(t *testing.T) { echoes().Patience(t) }
func TestIdle(t *testing.T)     { echoes().Idle(t) }

// TestDeafClient does not read what it has asked for.
func TestDeafClient(t *testing.T) {
	cfg := h1.Defaults()
	var failed chan error
	big := func(w http.ResponseWriter, r *http.Request) {
		_, err := w.Write(make([]byte, 1<<20))
		failed <- err
	}
	timed(t, cfg, big, func(t *testing.T, c net.Conn) {
		began := time.Now()
		failed = make(chan error, 1)
		io.WriteString(c, ok)
		var ne net.Error
		if err := <-failed; !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("error %v, want a timeout", err)
		}
		if took := time.Since(began); took < cfg.WriteGap || took > cfg.WriteGap*5/4 {
			t.Errorf("after %v, want about %v", took, cfg.WriteGap)
		}
	})
}

func TestMaxRequests(t *testing.T) {
	cfg := h1.Defaults()
	cfg.MaxRequests = 3
	got := send(t, serve(t, cfg, echo), strings.Repeat(ok, 5))
	if len(got) != 3 || got[2] != okAnswer {
		t.Errorf("answers %q, want 3", got)
	}
}

// TestInterruptLate comes when nothing is waited for: the answer stands, and the connection ends without another word.
func TestInterruptLate(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		h1.Of(r).Interrupt()
		io.WriteString(w, "done")
	}
	got := send(t, serve(t, h1.Defaults(), handler), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
	if len(got) != 1 || got[0] != "200 done" {
		t.Errorf("answers %q, want one", got)
	}
}

// TestInterrupt ends the wait for a body from outside.
func TestInterrupt(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		q := h1.Of(r)
		time.AfterFunc(10*time.Second, q.Interrupt)
		_, err := io.ReadAll(r.Body)
		if !errors.Is(err, h1.ErrInterrupted) {
			t.Errorf("error %v, want ErrInterrupted", err)
		}
		io.WriteString(w, "done")
	}
	timed(t, h1.Defaults(), handler, exchangetest.Interrupted)
}

func TestContinue(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if h1.Of(r).Target == "/no" {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		echo(w, r)
	}
	addr := serve(t, h1.Defaults(), handler)
	for _, c := range []struct{ target, want string }{
		{"/", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"},
		{"/no", "HTTP/1.1 413 Request Entity Too Large\r\n"},
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", c.target)
		r := bufio.NewReader(conn)
		got, _ := r.ReadString('\n')
		if strings.Contains(got, "100") {
			io.WriteString(conn, "abc")
			for range 2 {
				line, _ := r.ReadString('\n')
				got += line
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.target, got, c.want)
		}
		conn.Close()
	}
}

// TestLateRefusal breaks off a chunked body while the handler is answering already.
func TestLateRefusal(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		io.WriteString(w, "begun")
		http.NewResponseController(w).Flush()
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("a broken body was read without an error")
		}
		panic(http.ErrAbortHandler)
	}
	got := sendRaw(t, serve(t, h1.Defaults(), handler), "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"+ok)
	if !strings.Contains(got, "5\r\nbegun\r\n") || strings.Contains(got, "0\r\n\r\n") || strings.Count(got, "HTTP/1.1 ") != 1 {
		t.Errorf("got %q, want one answer without an end", got)
	}
}

// TestUnreadBody has a handler that answers without reading: what follows in the body is never a request.
func TestUnreadBody(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, h1.Of(r).Target) }
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, size := range []int{100, 100 << 10, 1 << 20} {
		body := strings.Repeat(smuggled, size/len(smuggled)+1)
		raw := fmt.Sprintf("POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%sGET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", len(body), body)
		if got := sendRaw(t, serve(t, h1.Defaults(), handler), raw); strings.Contains(got, "smuggled") || !strings.Contains(got, "/one") {
			t.Errorf("%d bytes unread: %q", size, got)
		}
	}
}

// sendRaw writes raw and returns all that comes back.
func sendRaw(t *testing.T, addr, raw string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go io.WriteString(c, raw)
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("no end after %q", b.String())
			}
			return b.String()
		}
	}
}
