package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/upstream"
)

// A backend is a server that speaks raw bytes.
type backend struct {
	addr  netip.AddrPort
	conns atomic.Int64
	open  atomic.Int64
}

// raw starts a backend that runs talk for each connection and closes it after that.
func raw(t testing.TB, talk func(c net.Conn, r *bufio.Reader)) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{addr: addrOf(l.Addr())}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.conns.Add(1)
			b.open.Add(1)
			wg.Go(func() {
				defer b.open.Add(-1)
				defer c.Close()
				stop := context.AfterFunc(t.Context(), func() { c.Close() })
				defer stop()
				talk(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() { l.Close(); close(done); wg.Wait() })
	return b
}

// says answers every request with the same bytes; it reads heads and sized bodies.
func says(t testing.TB, answer string) *backend {
	return raw(t, func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
			if strings.Contains(answer, "close-after") {
				return
			}
		}
	})
}

// outcome is a whole exchange in one line.
func outcome(c *upstream.Client, x *exchange.Exchange, to upstream.Target) string {
	resp, err := c.Do(x, to)
	if err != nil {
		e := err.(*upstream.Error)
		return fmt.Sprintf("%s sent=%t answered=%t timeout=%t: %v", e.Phase, e.Sent, e.Answered, e.Timeout, e.Err)
	}
	s := fmt.Sprintf("%d %d", resp.Status, resp.Length)
	for _, f := range resp.Header {
		s += fmt.Sprintf(" %s=%q", f.Name, f.Value)
	}
	if resp.Body == nil {
		return s
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	s += fmt.Sprintf(" body=%q", b)
	if resp.Trailer != nil {
		for _, f := range *resp.Trailer {
			s += fmt.Sprintf(" trailer %s=%q", f.Name, f.Value)
		}
	}
	var e *upstream.Error
	if errors.As(err, &e) {
		s += fmt.Sprintf(" %s: %v", e.Phase, e.Err)
	}
	return s
}

// TestAnswers has endpoints answer in every way, twice, and wants to know whether the connection was kept in between.
func TestAnswers(t *testing.T) {
	cases := []struct {
		name, answer, want string
		kept               bool
		method             string
	}{
		{name: "sized", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx-A: 1\r\n\r\nabc", want: `200 3 x-A="1" body="abc"`, kept: true},
		{name: "no phrase", answer: "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", want: `200 0`, kept: true},
		{name: "chunked", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\nd\r\n0\r\nX-T: 1\r\nSet-Cookie: evil\r\n\r\n", want: `200 -1 body="abcd" trailer X-T="1"`, kept: true},
		{name: "until the end", answer: "HTTP/1.1 200 close-after\r\n\r\nabc", want: `200 -1 body="abc"`},
		{name: "close", answer: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", want: `200 3 body="abc"`},
		{name: "HTTP/1.0", answer: "HTTP/1.0 200 close-after\r\nContent-Length: 3\r\n\r\nabc", want: `200 3 body="abc"`},
		{name: "HTTP/1.0 kept", answer: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", want: `200 3 body="abc"`, kept: true},
		{name: "HEAD", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n", want: `200 30`, kept: true},
		{name: "HEAD with chunks", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", want: `200 -1`, kept: true},
		{name: "204", answer: "HTTP/1.1 204 No Content\r\n\r\n", want: `204 0`, kept: true},
		{name: "204 with a length", answer: "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", want: `204 0`, kept: true},
		{name: "304 with a length", answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", want: `304 3`, kept: true},
		{name: "hop by hop", answer: "HTTP/1.1 200 OK\r\nConnection: X-Mine, keep-alive\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\nProxy-Authenticate: x\r\nTrailer: x\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n", want: `200 0`, kept: true},
		{name: "100", answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", want: `200 0`, kept: true},
		{name: "five interim answers", answer: strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 5) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", want: `200 0`, kept: true},

		{name: "six interim answers", answer: strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 6) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", want: `head sent=true answered=true timeout=false: too many interim answers`},
		{name: "bytes after the answer", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", want: `200 3 body="abc"`},
		{name: "body after 204", answer: "HTTP/1.1 204 OK\r\n\r\nevil", want: `204 0`},
		{name: "body after HEAD", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", want: `200 4`},
		{name: "two lengths", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", want: `head sent=true answered=true timeout=false: http/1: content-length-repeated (400)`},
		{name: "the same length twice", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", want: `head sent=true answered=true timeout=false: http/1: content-length-repeated (400)`},
		{name: "bad length", answer: "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc", want: `head sent=true answered=true timeout=false: http/1: content-length (400)`},
		{name: "length and coding", answer: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: length-and-coding (400)`},
		{name: "unknown coding", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: transfer-coding (501)`},
		{name: "coding in HTTP/1.0", answer: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: transfer-coding-http10 (400)`},
		{name: "bare LF", answer: "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", want: `head sent=true answered=true timeout=false: http/1: bare-lf (400)`},
		{name: "folded", answer: "HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: folded-field (400)`},
		{name: "NUL", answer: "HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: control-byte (400)`},
		{name: "other protocol", answer: "SSH-2.0-OpenSSH_9.2p1 Debian\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: status-line (400)`},
		{name: "HTTP/2", answer: "HTTP/2 200\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: status-line (400)`},
		{name: "status 99", answer: "HTTP/1.1 099 X\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: status-line (400)`},
		{name: "status 600", answer: "HTTP/1.1 600 X\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: status-line (400)`},
		{name: "status of four digits", answer: "HTTP/1.1 2000 X\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: status-line (400)`},
		{name: "large head", answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 70<<10) + "\r\n\r\n", want: `head sent=true answered=true timeout=false: http/1: long-head (431)`},
		{name: "101 unasked", answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", want: `head sent=true answered=true timeout=false: the endpoint changed to a protocol that was not asked for`},
		{name: "cut head", answer: "HTTP/1.1 200 close-after\r\nX", want: `head sent=true answered=true timeout=false: the connection was closed without an answer`},
		{name: "cut body", answer: "HTTP/1.1 200 close-after\r\nContent-Length: 5\r\n\r\nabc", want: `200 5 body="abc" body: unexpected EOF`},
		{name: "cut chunk", answer: "HTTP/1.1 200 close-after\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", want: `200 -1 body="abc" body: unexpected EOF`},
		{name: "no last chunk", answer: "HTTP/1.1 200 close-after\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", want: `200 -1 body="abc" body: unexpected EOF`},
		{name: "bad chunk", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n-1\r\n", want: `200 -1 body="abc" body: http/1: chunk-size (400)`},
		{name: "bad trailer", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX Y: 1\r\n\r\n", want: `200 -1 body="" body: http/1: space-before-colon (400)`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := says(t, c.answer)
			cl := client(t, upstream.Config{})
			want := int64(2)
			if c.kept {
				want = 1
			}
			for range 2 {
				x := ask(t, c.method, "/", nil, 0)
				if c.method == "" {
					x.Request.Method = "GET"
				}
				if diff := cmp.Diff(outcome(cl, x, upstream.Target{Addr: b.addr}), c.want); diff != "" {
					t.Errorf("outcome (-got +want):\n%s", diff)
				}
				time.Sleep(2 * time.Millisecond) // for bytes or an end that come after the answer
			}
			if got := b.conns.Load(); got != want {
				t.Errorf("%d connections for two requests, want %d", got, want)
			}
		})
	}
}

// TestRequests wants what the endpoint gets to be what it should be, byte by byte.
func TestRequests(t *testing.T) {
	trailer := exchange.Header{{Name: "X-Sum", Value: "7"}, {Name: "Host", Value: "evil"}}
	cases := []struct {
		name string
		edit func(r *exchange.Request, to *upstream.Target)
		want string
	}{
		{"plain", func(*exchange.Request, *upstream.Target) {}, "GET / HTTP/1.1\r\nHost: app.example\r\nX-One: 1\r\n\r\n"},
		{"host", func(_ *exchange.Request, to *upstream.Target) { to.Host = "other:80" }, "GET / HTTP/1.1\r\nHost: other:80\r\nX-One: 1\r\n\r\n"},
		{"query", func(r *exchange.Request, _ *upstream.Target) { r.HasQuery, r.Query = true, "a=%zz&b" }, "GET /?a=%zz&b HTTP/1.1\r\nHost: app.example\r\nX-One: 1\r\n\r\n"},
		{"empty query", func(r *exchange.Request, _ *upstream.Target) { r.HasQuery = true }, "GET /? HTTP/1.1\r\nHost: app.example\r\nX-One: 1\r\n\r\n"},
		{"star", func(r *exchange.Request, _ *upstream.Target) { r.Method, r.Path = "OPTIONS", "*" }, "OPTIONS * HTTP/1.1\r\nHost: app.example\r\nX-One: 1\r\n\r\n"},
		{"hop by hop from a policy", func(r *exchange.Request, _ *upstream.Target) {
			r.Header = exchange.Header{{Name: "Connection", Value: "close"}, {Name: "content-length", Value: "9"}, {Name: "Transfer-Encoding", Value: "chunked"}, {Name: "Expect", Value: "100-continue"}, {Name: "Host", Value: "x"}, {Name: "X", Value: ""}}
		}, "GET / HTTP/1.1\r\nHost: app.example\r\nX: \r\n\r\n"},
		{"trailers offered", func(r *exchange.Request, _ *upstream.Target) { r.Trailers = true }, "GET / HTTP/1.1\r\nHost: app.example\r\nX-One: 1\r\nConnection: TE\r\nTE: trailers\r\n\r\n"},
		{"empty POST", func(r *exchange.Request, _ *upstream.Target) { r.Method = "POST" }, "POST / HTTP/1.1\r\nHost: app.example\r\nX-One: 1\r\nContent-Length: 0\r\n\r\n"},
		{"small body", func(r *exchange.Request, _ *upstream.Target) {
			r.Method, r.Length, r.Body = "POST", 3, bytes.NewReader([]byte("abc"))
		}, "POST / HTTP/1.1\r\nHost: app.example\r\nX-One: 1\r\nContent-Length: 3\r\n\r\nabc"},
		{"streamed body", func(r *exchange.Request, _ *upstream.Target) {
			r.Method, r.Length, r.Body = "POST", 3, strings.NewReader("abcdef")
		}, "POST / HTTP/1.1\r\nHost: app.example\r\nX-One: 1\r\nContent-Length: 3\r\n\r\nabc"},
		{"chunked body", func(r *exchange.Request, _ *upstream.Target) {
			r.Method, r.Length, r.Body, r.Trailer = "POST", -1, io.MultiReader(strings.NewReader("abc"), strings.NewReader(strings.Repeat("d", 26))), &trailer
		}, "POST / HTTP/1.1\r\nHost: app.example\r\nX-One: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1a\r\n" + strings.Repeat("d", 26) + "\r\n0\r\nX-Sum: 7\r\n\r\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := make(chan string, 1)
			b := raw(t, func(conn net.Conn, _ *bufio.Reader) {
				conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				buf := make([]byte, 64<<10)
				n := 0
				for n < len(c.want) {
					m, err := conn.Read(buf[n:])
					n += m
					if err != nil {
						break
					}
				}
				got <- string(buf[:n])
				io.WriteString(conn, "HTTP/1.1 204 OK\r\n\r\n")
			})
			x, to := ask(t, "GET", "/", nil, 0), upstream.Target{Addr: b.addr}
			c.edit(&x.Request, &to)
			if out := outcome(client(t, upstream.Config{}), x, to); out != "204 0" {
				t.Errorf("outcome %s", out)
			}
			if diff := cmp.Diff(<-got, c.want); diff != "" {
				t.Errorf("request (-got +want):\n%s", diff)
			}
		})
	}
}

// TestInvalid wants nothing to be sent that could be read as two things.
func TestInvalid(t *testing.T) {
	b := says(t, "HTTP/1.1 204 OK\r\n\r\n")
	c := client(t, upstream.Config{})
	edits := map[string]func(r *exchange.Request){
		"method": func(r *exchange.Request) { r.Method = "GET /evil HTTP/1.1\r\nHost: x\r\n\r\nGET" },
		"path":   func(r *exchange.Request) { r.Path = "/ HTTP/1.1\r\nX: y\r\n\r\n" },
		"space":  func(r *exchange.Request) { r.Path = "/a b" },
		"query":  func(r *exchange.Request) { r.HasQuery, r.Query = true, "\r\n" },
		"host":   func(r *exchange.Request) { r.RawHost = "a\r\nX: y" },
		"name":   func(r *exchange.Request) { r.Header.Add("X: y\r\nZ", "1") },
		"empty":  func(r *exchange.Request) { r.Header.Add("", "1") },
		"value":  func(r *exchange.Request) { r.Header.Add("X", "1\r\nY: 2") },
	}
	for name, edit := range edits {
		x := ask(t, "GET", "/", nil, 0)
		edit(&x.Request)
		_, err := c.Do(x, upstream.Target{Addr: b.addr})
		if e, ok := err.(*upstream.Error); !ok || e.Phase != upstream.Build || e.Sent {
			t.Errorf("%s: error %v, want one of phase build", name, err)
		}
	}
}

func TestInterim(t *testing.T) {
	b := says(t, "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 204 OK\r\n\r\n")
	x := ask(t, "GET", "/", nil, 0)
	var got []string
	x.Interim = func(status int, h exchange.Header) { got = append(got, fmt.Sprint(status, h)) }
	outcome(client(t, upstream.Config{}), x, upstream.Target{Addr: b.addr})
	if diff := cmp.Diff(got, []string{"103 [{Link </a.css>}]"}); diff != "" {
		t.Errorf("interim answers (-got +want):\n%s", diff)
	}
}
