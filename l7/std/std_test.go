package std

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// breaks is a body that breaks off.
func breaks(text string) io.Reader {
	return io.MultiReader(strings.NewReader(text), errReader{})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

// TestFraming looks at every byte of answers but the date.
func TestFraming(t *testing.T) { both(t, testFraming) }

func testFraming(t *testing.T, start starter) {
	const bye = "Connection: close\r\n"
	field := func(name, value string) exchange.Field { return exchange.Field{Name: name, Value: value} }
	for _, c := range []struct {
		name, send string
		handle     func(*exchange.Exchange)
		want       string // without Date; the order of fields does not matter
	}{
		{"length", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 200, 2, strings.NewReader("ok")) },
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + bye + "\r\nok"},
		{"no body", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 200, 0, nil) }, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + bye + "\r\n"},
		{"unknown length", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 200, exchange.Unknown, strings.NewReader("ok")) },
			"HTTP/1.1 200 OK\r\n" + bye + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"unknown length to HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 200, exchange.Unknown, strings.NewReader("ok")) },
			"HTTP/1.0 200 OK\r\n\r\nok"},
		{"HEAD of a backend", "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 200, 1000, nil) }, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n" + bye + "\r\n"},
		{"HEAD without a length", "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 200, exchange.Unknown, nil) }, "HTTP/1.1 200 OK\r\n" + bye + "\r\n"},
		{"HEAD with a body all the same", "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 200, 2, strings.NewReader("ok")) },
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + bye + "\r\n"},
		{"204", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 204, 0, nil) }, "HTTP/1.1 204 No Content\r\n" + bye + "\r\n"},
		{"304", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 304, exchange.Unknown, nil, field("ETag", `"x"`)) },
			"HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n" + bye + "\r\n"},
		{"fields of one hop", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
			func(x *exchange.Exchange) {
				respond(x, 200, 0, nil, field("Transfer-Encoding", "chunked"), field("Keep-Alive", "timeout=5"), field("Content-Length", "9"),
					field("X-A", "1"), field("X-A", "2"))
			}, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: 1\r\nX-A: 2\r\n" + bye + "\r\n"},
		{"a body that breaks off", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 200, exchange.Unknown, breaks("half")) },
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"},
		{"a body that is too short", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			func(x *exchange.Exchange) { respond(x, 200, 9, strings.NewReader("short")) },
			"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"},
		{"trailers for who takes them", "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n", withTrailer,
			"HTTP/1.1 200 OK\r\n" + bye + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"},
		{"trailers for who does not", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", withTrailer,
			"HTTP/1.1 200 OK\r\n" + bye + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"a panic", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", func(*exchange.Exchange) { panic("on purpose") },
			"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n" + bye + "\r\n"},
		{"no answer", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", func(*exchange.Exchange) {},
			"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n" + bye + "\r\n"},
		{"a refused request", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", nil,
			"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n" + bye + "\r\n"},
		{"early news", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", func(x *exchange.Exchange) {
			x.Interim(103, exchange.Header{field("Link", "</a.css>")})
			respond(x, 200, 0, nil)
		}, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + bye + "\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, &script{Answer: c.handle}, nil)
			client := p.dial(t)
			client.send(c.send)
			if got, want := sortedHead(withoutDate(client.all())), sortedHead(c.want); got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func withTrailer(x *exchange.Exchange) {
	respond(x, 200, exchange.Unknown, strings.NewReader("ok"))
	x.Response.Trailer = &exchange.Header{{Name: "X-Sum", Value: "7"}, {Name: "Content-Length", Value: "9"}, {Name: "Set-Cookie", Value: "a=b"}}
}

// sortedHead sorts the fields of the first head, with names as net/http writes them. Ours have those of the backend.
func sortedHead(s string) string {
	head, body, ok := strings.Cut(s, "\r\n\r\n")
	status, fields, some := strings.Cut(head, "\r\n")
	if !ok || !some {
		return s
	}
	lines := strings.Split(fields, "\r\n")
	for i, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		lines[i] = textproto.CanonicalMIMEHeaderKey(name) + ":" + value
	}
	slices.Sort(lines)
	return status + "\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

func withoutDate(s string) string {
	a, rest, ok := strings.Cut(s, "Date: ")
	if !ok {
		return s
	}
	_, b, _ := strings.Cut(rest, "\r\n")
	return a + b
}

// TestPieces shows that what a backend has sent is not held back, whether it has said how long it will be or not.
func TestPieces(t *testing.T) { both(t, testPieces) }

func testPieces(t *testing.T, start starter) {
	for _, length := range []int64{exchange.Unknown, 10} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			r, w := io.Pipe()
			p := start(t, &script{Answer: func(x *exchange.Exchange) {
				x.Response = &exchange.Response{Status: 200, Length: length, Body: trickle{r}}
			}}, nil)
			c := p.dial(t)
			c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			c.until("\r\n\r\n") // the head alone
			io.WriteString(w, "first")
			c.until("first")
			io.WriteString(w, "other")
			w.Close()
			c.until("other")
			c.all()

			r, w = io.Pipe()
			resp, err := p.h2(t).Get("https://a.com/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got := make([]byte, 5)
			io.WriteString(w, "first")
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "first" {
				t.Fatalf("got %q, %v", got, err)
			}
			io.WriteString(w, "other")
			w.Close()
			if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "other" {
				t.Fatalf("got %q, %v", rest, err)
			}
		})
	}
}

// trickle is a body that says that there is never more at once.
type trickle struct{ io.ReadCloser }

func (trickle) Buffered() int { return 0 }

func TestContinue(t *testing.T) { both(t, testContinue) }

func testContinue(t *testing.T, start starter) {
	refuse := &script{Answer: func(x *exchange.Exchange) { x.Answer(413, "body-too-large") }}
	c := start(t, refuse, nil).dial(t)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if got := c.all(); !strings.HasPrefix(got, "HTTP/1.1 413 ") || !strings.Contains(got, "Connection: close\r\n") {
		t.Errorf("got %q, want 413 without 100 and the end", got)
	}
	take := &script{Answer: func(x *exchange.Exchange) {
		b, _ := io.ReadAll(x.Request.Body)
		respond(x, 200, int64(len(b)), strings.NewReader(string(b)))
	}}
	c = start(t, take, nil).dial(t)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
	c.until("HTTP/1.1 100 Continue\r\n\r\n")
	c.send("hello")
	if got := c.all(); !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.HasSuffix(got, "hello") {
		t.Errorf("got %q", got)
	}
	if d := last(t, take); d.In != 5 || d.Out != 5 {
		t.Errorf("got %d bytes in and %d out, want 5", d.In, d.Out)
	}
}

// TestRefusedBody has a client that sends a long body nobody wants. It gets the answer, and the connection ends.
func TestRefusedBody(t *testing.T) { both(t, testRefusedBody) }

func testRefusedBody(t *testing.T, start starter) {
	c := start(t, &script{Answer: func(x *exchange.Exchange) { x.Answer(413, "body-too-large") }}, nil).dial(t)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
	c.until("HTTP/1.1 413 ")
	go io.CopyN(c.Conn, zeros{}, 10000000)
	c.all()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestPanicAfterTheHead(t *testing.T) { both(t, testPanicAfterTheHead) }

func testPanicAfterTheHead(t *testing.T, start starter) {
	s := &script{Answer: func(x *exchange.Exchange) { respond(x, 200, exchange.Unknown, panics{}) }}
	p := start(t, s, nil)
	c := p.dial(t)
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if got := c.all(); strings.HasSuffix(got, "0\r\n\r\n") {
		t.Errorf("got %q, which looks whole", got)
	}
	if d := last(t, s); d.Panic == nil || !strings.Contains(string(d.Stack), "panics") {
		t.Errorf("got %v at %s", d.Panic, d.Stack)
	}
	if n := p.Stats().Panics.Load(); n != 1 {
		t.Errorf("%d panics are counted", n)
	}
}

type panics struct{}

func (panics) Read([]byte) (int, error) { panic("on purpose") }

func TestHTTP2(t *testing.T) {
	s := &script{Answer: func(x *exchange.Exchange) {
		body := "none"
		if x.Request.Body != nil {
			b, _ := io.ReadAll(x.Request.Body)
			body = string(b)
		}
		text := fmt.Sprint(x.Request.Protocol, " ", x.Request.Method, " ", x.Request.RawHost, x.Request.RawPath, " ", x.Request.Query, " ",
			body, " [", x.Request.Header.Get("Cookie"), "] ", x.Request.Header.Has("X_A"), " ", x.Request.TLS != nil)
		respond(x, 200, int64(len(text)), strings.NewReader(text), exchange.Field{Name: "Connection", Value: "keep-alive"})
		x.Response.Trailer = &exchange.Header{{Name: "Grpc-Status", Value: "0"}}
	}}
	p := start(t, s, nil)
	client := p.h2(t)
	for range 2 {
		req, err := http.NewRequest("POST", "https://a.com/x?y=z", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header["X_A"] = []string{"1"}
		req.Header["Cookie"] = []string{"a=1", "b=2"}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if want := "HTTP/2.0 POST a.com/x y=z body [a=1; b=2] false true"; string(got) != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if resp.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("trailer: got %v", resp.Trailer)
		}
	}
	if l := p.Stats().Listeners(); l[0].HTTP2.Load()+l[1].HTTP2.Load() != 1 {
		t.Error("two requests have not shared a connection")
	}
}

// frames speaks HTTP/2 frame by frame.
type frames struct {
	*http2.Framer
	conn net.Conn
	enc  *hpack.Encoder
	buf  *strings.Builder
}

func (p *place) frames(t *testing.T) *frames {
	t.Helper()
	c, err := tls.Dial("tcp", p.safe.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	f := &frames{Framer: http2.NewFramer(c, c), conn: c, buf: &strings.Builder{}}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.enc = hpack.NewEncoder(f.buf)
	io.WriteString(c, http2.ClientPreface)
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *frames) request(t *testing.T, stream uint32, end bool, fields ...string) {
	t.Helper()
	f.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: []byte(f.buf.String()), EndHeaders: true, EndStream: end,
	}); err != nil {
		t.Fatal(err)
	}
}

// answer returns the status of the next answer, or "reset".
func (f *frames) answer(t *testing.T) string {
	t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch v := frame.(type) {
		case *http2.MetaHeadersFrame:
			return v.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "goaway"
		}
	}
}

func TestHTTP2Refusals(t *testing.T) {
	p := start(t, &script{Answer: func(x *exchange.Exchange) { respond(x, 200, 0, nil) }}, nil)
	for _, c := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"good", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a.com"}, "200"},
		{"a star for OPTIONS", []string{":method", "OPTIONS", ":scheme", "https", ":path", "*", ":authority", "a.com"}, "200"},
		{"a star for others", []string{":method", "GET", ":scheme", "https", ":path", "*", ":authority", "a.com"}, "400"},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "a.com:443"}, "400"},
		{"a method that is none", []string{":method", "G T", ":scheme", "https", ":path", "/", ":authority", "a.com"}, "reset 400"},
		{"a space in the path", []string{":method", "GET", ":scheme", "https", ":path", "/a b HTTP/1.1", ":authority", "a.com"}, "400 reset"},
		{"a fragment", []string{":method", "GET", ":scheme", "https", ":path", "/a#b", ":authority", "a.com"}, "400 reset"},
		{"user information", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "u@a.com"}, "400 reset"},
		{"two hosts", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a.com", "host", "b.com"}, "400 reset"},
		{"a field of one hop", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a.com", "transfer-encoding", "chunked"}, "400 reset"},
		{"a line feed", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a.com", "x", "a\nb"}, "400 reset"},
	} {
		f := p.frames(t)
		f.request(t, 1, true, c.fields...)
		if got := f.answer(t); !strings.Contains(c.want, got) {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// TestHTTP2Slow has clients that stop sending or taking a body. They may not hold a request for ever.
func TestHTTP2Slow(t *testing.T) {
	ended := make(chan error, 1)
	s := &script{Answer: func(x *exchange.Exchange) {
		if x.Request.Body != nil {
			_, err := io.ReadAll(x.Request.Body)
			ended <- err
			x.Answer(408, "client-body")
			return
		}
		respond(x, 200, 1<<20, io.LimitReader(zeros{}, 1<<20))
	}}
	p := start(t, s, func(c *Config) {
		c.Settings.Gate.BodyGap, c.Settings.Gate.WriteGap = 100*time.Millisecond, 100*time.Millisecond
	})
	f := p.frames(t)
	f.request(t, 1, false, ":method", "POST", ":scheme", "https", ":path", "/", ":authority", "a.com")
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(fmt.Sprint(err), "timeout") {
		t.Errorf("a body that does not come: got %v", err)
	}
	if got := f.answer(t); got != "408" && got != "reset" {
		t.Errorf("got %s", got)
	}
	f.request(t, 3, true, ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a.com")
	until(t, "the answer that nobody takes is given up", func() bool { return last(t, s).Err != nil })
}

func TestProxyProtocol(t *testing.T) { both(t, testProxyProtocol) }

func testProxyProtocol(t *testing.T, start starter) {
	s := &script{Answer: func(x *exchange.Exchange) {
		text := x.Request.Client.String() + " " + fmt.Sprint(x.Request.Peer == x.Request.Client)
		respond(x, 200, int64(len(text)), strings.NewReader(text))
	}}
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	const get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	v2 := "\r\n\r\n\x00\r\nQUIT\n"
	for _, c := range []struct {
		name, head string
		trusted    []netip.Prefix
		want       string // the client, or nothing: refused
	}{
		{"version 1", "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n", trusted, "192.0.2.1:1000"},
		{"version 1 over IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 1000 80\r\n", trusted, "[2001:db8::1]:1000"},
		{"version 2", v2 + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x03\xe8\x00\x50", trusted, "192.0.2.1:1000"},
		{"of the proxy itself", v2 + "\x20\x00\x00\x00", trusted, "127.0.0.1:"},
		{"unknown", "PROXY UNKNOWN\r\n", trusted, "127.0.0.1:"},
		{"a datagram", v2 + "\x21\x12\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x03\xe8\x00\x50", trusted, "127.0.0.1:"},
		{"missing", "", trusted, ""},
		{"garbage", "PROXY TCP4 nonsense\r\n", trusted, ""},
		{"a stranger", "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n", []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ""},
		{"nobody trusted", "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n", []netip.Prefix{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, s, func(conf *Config) { conf.Settings.Proxy = c.trusted })
			client := p.dial(t)
			io.WriteString(client, c.head+get)
			got := client.all()
			if _, body, _ := strings.Cut(got, "\r\n\r\n"); c.want == "" && got != "" || c.want != "" && !strings.HasPrefix(body, c.want) {
				t.Errorf("got %q, want the client %q", got, c.want)
			}
			until(t, "the connection is counted out", func() bool { return p.Stats().open() == 0 })
			bad := p.Stats().Listeners()[0].BadProxy.Load() + p.Stats().Listeners()[1].BadProxy.Load()
			if (bad == 1) != (c.want == "") {
				t.Errorf("%d bad headers are counted", bad)
			}
		})
	}
}

// TestConfigure changes the settings while clients are there. What is out of use is given up.
func TestConfigure(t *testing.T) { both(t, testConfigure) }

func testConfigure(t *testing.T, start starter) {
	p := start(t, &script{Answer: func(x *exchange.Exchange) { respond(x, 200, 0, nil) }}, nil)
	before := runtime.NumGoroutine()
	old := p.dial(t)
	old.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	old.until("\r\n\r\n")
	for range 100 {
		p.Configure(p.settings)
	}
	p.mu.Lock()
	if n := len(p.all); n != 2 {
		t.Errorf("%d generations, want the one with a connection and the current one", n)
	}
	p.mu.Unlock()
	old.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n") // is served as before
	old.until("\r\n\r\n")
	next := p.dial(t)
	next.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	next.all()
	old.Close()
	until(t, "the old generation has gone", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.all) == 1 && p.current.users == 0
	})
	until(t, "its goroutines have gone", func() bool { return runtime.NumGoroutine() <= before+2 })
	p.live.Range(func(c, _ any) bool { t.Errorf("%v is still remembered", c); return true })
}

func TestShutdown(t *testing.T) { both(t, testShutdown) }

func testShutdown(t *testing.T, start starter) {
	asked, go_ := make(chan struct{}), make(chan struct{})
	s := &script{Answer: func(x *exchange.Exchange) {
		if x.Request.RawPath == "/slow" {
			close(asked)
			<-go_
		}
		respond(x, 200, 2, strings.NewReader("ok"))
	}}
	p := start(t, s, nil)
	kept, idle, slow, silent := p.dial(t), p.dial(t), p.dial(t), p.dial(t)
	for _, c := range []*client{kept, idle} {
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.until("ok")
	}
	slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	<-asked
	h2 := p.h2(t)
	if _, err := h2.Get("https://a.com/"); err != nil {
		t.Fatal(err)
	}
	until(t, "the silent one is there", func() bool { return p.Stats().open() == 5 })
	p.Stop()
	p.plain.Close()
	p.safe.Close()
	over := make(chan error)
	go func() { over <- p.Shutdown(t.Context()) }()
	until(t, "clients are told", func() bool { return p.leaving.Load() })
	kept.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n") // one who was just about to ask is served, and told
	if got := kept.all(); !strings.HasSuffix(got, "ok") || !strings.Contains(got, "Connection: close\r\n") {
		t.Errorf("got %q", got)
	}
	if resp, err := h2.Get("https://a.com/"); err != nil || resp.StatusCode != 200 {
		t.Errorf("HTTP/2: got %v, %v", resp, err)
	}
	if got := idle.all(); got != "" {
		t.Errorf("the idle one got %q", got)
	}
	close(go_)
	if got := slow.all(); !strings.HasSuffix(got, "ok") {
		t.Errorf("the slow one got %q", got)
	}
	silent.Close()
	if err := <-over; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestPassthrough(t *testing.T) {
	s := &script{Answer: func(x *exchange.Exchange) { respond(x, 200, 0, nil) }}
	got := make(chan string, 1)
	p := start(t, s, func(c *Config) {
		c.Passthrough = func(sni string) func(net.Conn) {
			switch sni {
			case "through.com":
				return func(conn net.Conn) {
					defer conn.Close()
					head := make([]byte, 3)
					io.ReadFull(conn, head)
					got <- string(head)
				}
			case "panic.com":
				return func(net.Conn) { panic("on purpose") }
			}
			return nil
		}
	})
	for _, name := range []string{"through.com", "panic.com"} {
		if c, err := tls.Dial("tcp", p.safe.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true}); err == nil {
			c.Close()
			t.Errorf("%s: there was a handshake", name)
		}
	}
	if head := <-got; head[0] != 0x16 || head[1] != 3 {
		t.Errorf("the first bytes were %q, want those of a ClientHello", head)
	}
	c, err := tls.Dial("tcp", p.safe.Addr().String(), &tls.Config{ServerName: "a.com", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	until(t, "all are counted out", func() bool { return p.Stats().open() == 0 })
	if n := p.Stats().Panics.Load(); n != 1 {
		t.Errorf("%d panics", n)
	}
}

func TestUpgradeRefused(t *testing.T) { both(t, testUpgradeRefused) }

func testUpgradeRefused(t *testing.T, start starter) {
	s := &script{Answer: func(x *exchange.Exchange) { respond(x, 101, 0, nil) }}
	c := start(t, s, nil).dial(t)
	c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if got := c.all(); !strings.HasPrefix(got, "HTTP/1.1 500 ") {
		t.Errorf("got %q", got)
	}
}
