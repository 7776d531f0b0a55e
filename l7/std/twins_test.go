package std

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
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// A tape is a connection on which a client has sent something and says nothing more.
type tape struct {
	in     io.Reader
	mu     sync.Mutex
	out    bytes.Buffer
	once   sync.Once
	closed chan struct{}
}

func newTape(in io.Reader) *tape { return &tape{in: in, closed: make(chan struct{})} }

func (c *tape) Read(p []byte) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
		return c.in.Read(p)
	}
}

func (c *tape) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(p)
}

func (c *tape) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *tape) LocalAddr() net.Addr              { return addr("127.0.0.1:80") }
func (c *tape) RemoteAddr() net.Addr             { return addr("127.0.0.2:1000") }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

func addr(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

// A witness is a Handler that writes down what it is asked, and answers in a way that depends on the path.
type witness struct {
	mu   sync.Mutex
	seen []string
}

func (w *witness) Handle(x *exchange.Exchange) {
	r := &x.Request
	line := fmt.Sprintf("%s %s %v %q %q %q %v %q %d %q %v %d", r.Method, r.Protocol, r.Secure, r.RawHost, r.RawPath, r.Query, r.HasQuery, r.Header,
		r.Length, r.Upgrade, r.Trailers, r.Size)
	if x.Response != nil {
		w.note(line + " refused: " + x.Response.Reason)
		return
	}
	if strings.Contains(r.RawPath, "hint") {
		x.Interim(103, exchange.Header{{Name: "Link", Value: "</a>"}})
	}
	var body []byte
	if r.Body != nil && !strings.Contains(r.RawPath, "leave") {
		var err error
		body, err = io.ReadAll(r.Body)
		var bad *h1.Error
		switch {
		case errors.As(err, &bad):
			line += " error " + bad.Reason
		case err != nil:
			line += " broken"
		}
		line += fmt.Sprintf(" %q", body)
		if err == nil && r.Trailer != nil {
			line += fmt.Sprintf(" %q", *r.Trailer)
		}
		if err != nil {
			w.note(line)
			x.Answer(400, "client-body")
			return
		}
	}
	w.note(line)
	respond(x, 200, int64(len(body)), bytes.NewReader(body), exchange.Field{Name: "X-Path", Value: "p"})
	switch {
	case strings.Contains(r.RawPath, "chunk"): // net/http knows the length of an empty body, whatever we say
		respond(x, 200, exchange.Unknown, strings.NewReader("some"+string(body)))
		x.Response.Trailer = &exchange.Header{{Name: "X-Sum", Value: "7"}}
	case strings.Contains(r.RawPath, "304"):
		x.Response.Status = 304
	case strings.Contains(r.RawPath, "204"):
		x.Response.Status, x.Response.Length, x.Response.Body = 204, 0, nil
	case strings.Contains(r.RawPath, "short"):
		x.Response.Length++
	case strings.Contains(r.RawPath, "own"):
		x.Answer(404, "no-route")
	}
}

func (w *witness) note(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, line)
}

func (w *witness) Tunnel(*exchange.Exchange, net.Conn, []byte) (in, out int64, err error) { return }

func (w *witness) Done(_ *exchange.Exchange, d Done) {
	w.note(fmt.Sprintf("done %d in %d out %d error %v panic %v", d.Status, d.In, d.Out, d.Err != nil, d.Panic))
}

// play has an Engine answer what is on a tape, and returns what its Handler has seen, and the answers.
func play(t *testing.T, netHTTP bool, in io.Reader) (seen, answers []string) {
	t.Helper()
	w := &witness{}
	gate := h1.Defaults()
	gate.MaxRequests = 20
	e := New(Config{Handler: w, NetHTTP: netHTTP, Log: discard(), Settings: Settings{Gate: gate, Idle: time.Minute}})
	defer e.Shutdown(canceled())
	stats := e.stats.listener("x", &queue{}, false)
	stats.Open.Add(1)
	c := newTape(in)
	go e.welcome(t.Context(), &connection{engine: e, generation: e.enter(), stats: stats}, c)
	select {
	case <-c.closed:
	case <-time.After(10 * time.Second):
		t.Fatalf("net/http %v: the connection stays open after %q", netHTTP, c.out.String())
	}
	until(t, "no request is under way", func() bool { return e.stats.Active.Load() == 0 })
	c.mu.Lock()
	defer c.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen, readAnswers(c.out.String(), w.seen)
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// readAnswers reads answers to the requests that a witness has seen, each as one line.
func readAnswers(raw string, seen []string) []string {
	var methods, out []string
	for _, line := range seen {
		if method, _, _ := strings.Cut(line, " "); method != "done" {
			methods = append(methods, method)
		}
	}
	in := bufio.NewReader(strings.NewReader(raw))
	for i := 0; ; {
		method := http.MethodGet
		if i < len(methods) {
			method = methods[i]
		}
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				out = append(out, "nonsense")
			}
			return out
		}
		var lines []string
		for name, values := range resp.Header {
			if name != "Date" && name != "Connection" { // which resp.Close tells
				lines = append(lines, fmt.Sprintf("%s=%q", name, values))
			}
		}
		slices.Sort(lines)
		body, err := io.ReadAll(resp.Body)
		out = append(out, fmt.Sprintf("%s %s %v close=%v length=%d %q %v %q", resp.Proto, resp.Status, lines, resp.Close, resp.ContentLength, body, err, resp.Trailer))
		if resp.StatusCode >= 200 {
			i++
		}
	}
}

// twins wants the same of both servers of HTTP/1.1.
func twins(t *testing.T, raw string, pieces bool) {
	t.Helper()
	reader := func() io.Reader {
		if pieces {
			return iotest.OneByteReader(strings.NewReader(raw))
		}
		return strings.NewReader(raw)
	}
	seen, answers := play(t, false, reader())
	stdSeen, stdAnswers := play(t, true, reader())
	if d := cmp.Diff(seen, stdSeen); d != "" {
		t.Errorf("%q: what the Handler sees (-ours +net/http):\n%s", raw, d)
	}
	if slices.ContainsFunc(seen, func(line string) bool {
		return strings.HasPrefix(line, "HEAD ") && strings.Contains(line, " refused: ")
	}) {
		return // the Gate tells net/http that what it refuses is GET
	}
	if d := cmp.Diff(answers, stdAnswers); d != "" {
		t.Errorf("%q: answers (-ours +net/http):\n%s", raw, d)
	}
}

// tapes are what clients might send.
func tapes() []string {
	get := func(path, fields string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: a.com\r\n" + fields + "\r\n"
	}
	post := func(path, fields, body string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: a.com\r\n" + fields + "\r\n" + body
	}
	ok := get("/ok?x=y", "X-A: 1\r\nx-a: 2\r\nCookie: c\r\n")
	chunked := "Transfer-Encoding: chunked\r\n"
	return []string{
		ok, ok + ok + ok, strings.Repeat(ok, 30), get("/", "Connection: close\r\n") + ok, "GET / HTTP/1.0\r\n\r\n" + ok,
		"GET /chunk HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + ok, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + ok,
		strings.Replace(ok, "GET", "HEAD", 1) + ok, "HEAD /chunk HTTP/1.1\r\nHost: a\r\n\r\n" + ok, "HEAD /own HTTP/1.1\r\nHost: a\r\n\r\n" + ok,
		get("/304", "") + get("/204", "") + ok, get("/chunk", "") + ok, get("/chunk", "TE: trailers\r\n") + ok, get("/hint", "") + ok, get("/short", "") + ok,
		get("/own", "") + ok, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + ok, get("http://b/c", "") + ok, get("/_", "X_A: 1\r\n") + ok,
		post("/", "Content-Length: 3\r\n", "abc") + ok, post("/", "Content-Length: 0\r\n", "") + ok, post("/", "Content-Length: 9\r\n", "abc"),
		post("/chunk", chunked, "3;e=f\r\nabc\r\n1\r\nd\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\n") + ok, post("/", chunked, "3\r\nabcX") + ok, post("/", chunked, "3\r\nab"),
		post("/", chunked, "zz\r\n") + ok, post("/leave", "Content-Length: 3\r\n", "abc") + ok, post("/leave", chunked, "3\r\nabc\r\n0\r\n\r\n") + ok,
		post("/own-leave", "Content-Length: 3\r\n", "abc") + ok, post("/own-leave", chunked, "3\r\nabc\r\n0\r\n\r\n") + ok,
		post("/own-leave", "Content-Length: 400000\r\n", strings.Repeat("x", 400000)) + ok, post("/leave", "Content-Length: 3\r\nExpect: 100-continue\r\n", "abc") + ok,
		post("/", "Content-Length: 3\r\nExpect: 100-continue\r\n", "abc") + ok, post("/", "Content-Length: 100000\r\n", strings.Repeat("y", 100000)) + ok,
		post("/chunk", chunked, strings.Repeat("2710\r\n"+strings.Repeat("c", 10000)+"\r\n", 9)+"0\r\n\r\n") + ok,
		ok + get("/", "Host: b\r\n") + ok, ok + "GET /\r\n\r\n", ok + "GET / HTTP/2.0\r\n\r\n" + ok, ok + "\r\n" + ok, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		post("/", chunked+"Content-Length: 3\r\n", "0\r\n\r\n") + ok, get("/", "X: "+strings.Repeat("a", 40000)+"\r\n"), "GET / HT", "",
		get("/", "Connection: upgrade\r\nUpgrade: websocket\r\n") + "\x81\x00", get("/"+strings.Repeat("p", 7000), "X: "+strings.Repeat("b", 20000)+"\r\n") + ok,
		strings.Replace(post("/own-leave", "Content-Length: 3\r\nConnection: keep-alive\r\n", "abc"), "HTTP/1.1", "HTTP/1.0", 1) + ok,
	}
}

// TestTwins plays the same bytes to both servers of HTTP/1.1: the Handler has to see the same requests, and the client to get the same
// answers.
func TestTwins(t *testing.T) {
	for _, raw := range tapes() {
		twins(t, raw, false)
		if len(raw) < 2000 {
			twins(t, raw, true)
		}
	}
}

// FuzzTwins is TestTwins with whatever comes to mind.
func FuzzTwins(f *testing.F) {
	for _, raw := range tapes() {
		if len(raw) < 2000 {
			f.Add(raw, false)
		}
	}
	f.Fuzz(twins)
}
