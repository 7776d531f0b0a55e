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

// answer reads one answer.
func answer(r *bufio.Reader) string {
	if _, err := r.Peek(1); err != nil {
		return err.Error()
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, body))
}

// trickle writes s byte by byte, one each interval, until the other side has gone.
func trickle(c net.Conn, s string, interval time.Duration) {
	for i := range len(s) {
		if _, err := c.Write([]byte{s[i]}); err != nil {
			return
		}
		time.Sleep(interval)
	}
}

func TestTooSlow(t *testing.T) {
	post := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
	cases := []struct {
		name  string
		talk  func(c net.Conn)
		want  string
		after time.Duration
	}{
		{"nothing", func(net.Conn) {}, "EOF", 30 * time.Second},
		{"half a head", func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\nHo") }, "408 slow-head", 30 * time.Second},
		{"a head byte by byte", func(c net.Conn) { trickle(c, strings.Repeat("a", 100), time.Second) }, "408 slow-head", 30 * time.Second},
		{"half a body", func(c net.Conn) { io.WriteString(c, post+"abc") }, "408 slow-body", 60 * time.Second},
		{"a body byte by byte", func(c net.Conn) { io.WriteString(c, post); trickle(c, strings.Repeat("a", 100), time.Second) }, "408 slow-body", 30 * time.Second},
		{"chunks byte by byte", func(c net.Conn) {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
			trickle(c, strings.Repeat("1\r\nx\r\n", 100), time.Second)
		}, "408 slow-body", 30 * time.Second},
		{"an extension byte by byte", func(c net.Conn) {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;")
			trickle(c, strings.Repeat("x", 1000), time.Second)
		}, "408 slow-body", 30 * time.Second},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			timed(t, h1.Defaults(), echo, func(t *testing.T, conn net.Conn) {
				began := time.Now()
				go c.talk(conn)
				if got := answer(bufio.NewReader(conn)); got != c.want {
					t.Errorf("answer %q, want %q", got, c.want)
				}
				if took := time.Since(began); took < c.after || took > c.after+2*time.Second {
					t.Errorf("after %v, want %v", took, c.after)
				}
			})
		})
	}
}

// TestPatience has slow clients and handlers that are not too slow.
func TestPatience(t *testing.T) {
	slow := func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(10 * time.Minute) // no fault of the client's
		echo(w, r)
	}
	timed(t, h1.Defaults(), slow, func(t *testing.T, c net.Conn) {
		r := bufio.NewReader(c)
		go func() {
			io.WriteString(c, ok)
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n")
			for range 60 { // 1,000 bytes a second
				io.WriteString(c, strings.Repeat("a", 1000))
				time.Sleep(time.Second)
			}
			time.Sleep(70 * time.Second)
			trickle(c, ok, 500*time.Millisecond)
		}()
		for _, want := range []string{okAnswer, `200 POST / HTTP/1.1 host=a body="` + strings.Repeat("a", 60000) + `"`, okAnswer} {
			if got := answer(r); got != want {
				t.Errorf("answer %.100q, want %.100q", got, want)
			}
		}
	})
}

func TestIdle(t *testing.T) {
	timed(t, h1.Defaults(), echo, func(t *testing.T, c net.Conn) {
		r := bufio.NewReader(c)
		for range 3 {
			go io.WriteString(c, ok)
			if got := answer(r); got != okAnswer {
				t.Fatalf("answer %q", got)
			}
			time.Sleep(70 * time.Second)
		}
		began := time.Now()
		if got := answer(r); got != "EOF" {
			t.Errorf("answer %q, want the end", got)
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("ended after 70s and %v, want 75s", took)
		}
	})
}

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
	timed(t, h1.Defaults(), handler, func(t *testing.T, c net.Conn) {
		go io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
		r := bufio.NewReader(c)
		if got := answer(r); got != "200 done" {
			t.Errorf("answer %q", got)
		}
		if got := answer(r); got != "EOF" {
			t.Errorf("answer %q, want the end", got)
		}
	})
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
