package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/exchange/exchangetest"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// all reads what comes until the end.
func all(t *testing.T, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("reading answers: %v", err)
	}
	return string(b)
}

// TestFields looks at the bytes of heads: order and case are the backend's, and nothing that is put into a field becomes
// another one.
func TestFields(t *testing.T) {
	for _, c := range []struct {
		name string
		resp exchange.Response
		want string
	}{
		{"as they came", exchange.Response{Status: 200, Header: exchange.Header{{Name: "x-B", Value: "2"}, {Name: "ETag", Value: `"x"`}, {Name: "X-b", Value: ""}}},
			"HTTP/1.1 200 OK\r\nx-B: 2\r\nETag: \"x\"\r\nX-b: \r\nContent-Length: 0\r\n"},
		{"two lines in a value", exchange.Response{Status: 200, Header: exchange.Header{{Name: "X-A", Value: "a\r\nX-Evil: b"}, {Name: "X-B", Value: "b"}, {Name: "X-C", Value: "a\nb"}, {Name: "X-D", Value: "a\rb"}}},
			"HTTP/1.1 200 OK\r\nX-B: b\r\nContent-Length: 0\r\n"},
		{"a carriage return in a value", exchange.Response{Status: 200, Header: exchange.Header{{Name: "X-D", Value: "a\rb"}}},
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"},
		{"a line in a name", exchange.Response{Status: 200, Header: exchange.Header{{Name: "X-A\r\nX-Evil", Value: "b"}, {Name: "", Value: "a"}, {Name: "a b", Value: "c"}, {Name: "a:b", Value: "c"}}},
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"},
		{"of one hop", exchange.Response{Status: 200, Header: exchange.Header{{Name: "content-LENGTH", Value: "7"}, {Name: "Connection", Value: "x"}, {Name: "Upgrade", Value: "h2c"}}},
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"},
		{"no such status", exchange.Response{Status: 599}, "HTTP/1.1 599 Status 599\r\nContent-Length: 0\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			handle := func(x *exchange.Exchange) { resp := c.resp; x.Response = &resp }
			timed(t, h1.Defaults(), handle, func(t *testing.T, conn net.Conn, _ *Server) {
				go io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				date := "Date: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n"
				before, length, _ := strings.Cut(c.want, "Content-Length")
				want := before + date + "Content-Length" + length + "Connection: close\r\n\r\n"
				if got := all(t, conn); got != want {
					t.Errorf("got  %q\nwant %q", got, want)
				}
			})
		})
	}
}

// TestDate leaves the backend's alone.
func TestDate(t *testing.T) {
	handle := func(x *exchange.Exchange) {
		x.Response = &exchange.Response{Status: 200, Header: exchange.Header{{Name: "date", Value: "then"}}}
	}
	timed(t, h1.Defaults(), handle, func(t *testing.T, c net.Conn, _ *Server) {
		go io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		want := "HTTP/1.1 200 OK\r\ndate: then\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
		if got := all(t, c); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// A counted is a connection that counts its writes.
type counted struct {
	net.Conn
	writes int
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// A whole is a body that says how much of it is there at once: all, and its end.
type whole struct{ *bytes.Reader }

func (w whole) Buffered() int { return w.Len() + 1 }
func (w whole) Close() error  { return nil }

// WriteTo hides that of bytes.Reader, which is not at all like that of package upstream.
func (w whole) WriteTo(to io.Writer) (int64, error) {
	b, err := io.ReadAll(w.Reader)
	if err != nil {
		return 0, err
	}
	n, err := to.Write(b)
	return int64(n), err
}

// TestSizes sends bodies of many sizes with their length and in chunks, read in pieces of any size, and wants them as they were. Small
// ones that are there at once go out in one write with the head.
func TestSizes(t *testing.T) {
	sizes := []int{1, 2, 255, 4095, 4096, bufferSize - 300, bufferSize - 100, bufferSize, bufferSize + 1, 3*bufferSize - 17, streamSize - 1, streamSize, 3*streamSize + 5}
	for _, size := range sizes {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i * 31)
		}
		for name, reader := range map[string]io.ReadCloser{
			"whole":  whole{bytes.NewReader(body)},
			"plain":  io.NopCloser(bytes.NewReader(body)),
			"bytes":  io.NopCloser(iotest.OneByteReader(bytes.NewReader(body))),
			"halves": io.NopCloser(iotest.HalfReader(bytes.NewReader(body))),
			"with":   io.NopCloser(iotest.DataErrReader(bytes.NewReader(body))),
		} {
			if name == "bytes" && size > bufferSize+1 {
				continue
			}
			for _, length := range []int64{int64(size), exchange.Unknown} {
				if seeker, ok := reader.(whole); ok {
					seeker.Seek(0, io.SeekStart)
				} else if length < 0 && name != "plain" {
					continue // it has been read
				} else if length < 0 {
					reader = io.NopCloser(bytes.NewReader(body))
				}
				conn, writes, err := served(t, length, reader)
				if err != nil || !bytes.Equal(conn, body) {
					t.Errorf("%s, %d of %d: got %d bytes, %v", name, length, size, len(conn), err)
				}
				if name == "whole" && size < bufferSize-500 && writes != 1 {
					t.Errorf("%s, %d of %d: %d writes, want 1", name, length, size, writes)
				}
			}
		}
	}
}

// served returns the body of an answer as it arrives.
func served(t *testing.T, length int64, body io.ReadCloser) (got []byte, writes int, err error) {
	t.Helper()
	client, server := net.Pipe()
	counter := &counted{Conn: server}
	s := newServer(&script{Answer: func(x *exchange.Exchange) {
		x.Response = &exchange.Response{Status: 200, Length: length, Body: body}
	}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(h1.NewGate(counter, h1.Defaults()))
	}()
	go io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err = io.ReadAll(resp.Body)
	client.Close()
	<-done
	return got, counter.writes, err
}

// TestLongHead answers with a head that fits into no buffer.
func TestLongHead(t *testing.T) {
	value := strings.Repeat("v", 30000)
	handle := func(x *exchange.Exchange) {
		respond(x, 2, strings.NewReader("ok"))
		x.Response.Header = exchange.Header{{Name: "X-Long", Value: value}}
	}
	timed(t, h1.Defaults(), handle, func(t *testing.T, c net.Conn, _ *Server) {
		r := bufio.NewReader(c)
		for range 2 {
			go io.WriteString(c, get)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil || resp.Header.Get("X-Long") != value {
				t.Errorf("got %q, %v and %d bytes of the field", b, err, len(resp.Header.Get("X-Long")))
			}
		}
	})
}

// TestTunnel has a client change the protocol, with some bytes of the new one sent early.
func TestTunnel(t *testing.T) {
	upgrade := "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
	head := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-A: 1\r\n\r\n"
	for _, wait := range []time.Duration{0, 10 * patience} { // with the client watched, or not
		synctest.Test(t, func(t *testing.T) {
			s := &script{Answer: func(x *exchange.Exchange) {
				time.Sleep(wait)
				x.Response = &exchange.Response{Status: 101, Header: exchange.Header{{Name: "X-A", Value: "1"}, {Name: "Connection", Value: "upgrade"}}}
			}}
			s.TunnelTo = func(client net.Conn, early []byte) {
				in := io.MultiReader(bytes.NewReader(early), client)
				b := make([]byte, len("early late"))
				if _, err := io.ReadFull(in, b); err != nil {
					t.Error(err)
				}
				_, _ = client.Write(bytes.ToUpper(b))
			}
			cfg := h1.Defaults()
			server := newServer(s)
			client, ours := net.Pipe()
			done := make(chan struct{})
			go func() {
				defer close(done)
				server.Serve(h1.NewGate(ours, cfg))
			}()
			go func() {
				io.WriteString(client, upgrade+"early")
				time.Sleep(time.Second)
				io.WriteString(client, " late")
			}()
			if got, want := all(t, client), head+"EARLY LATE"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			<-done
			if d := s.Ended(); len(d) != 1 || d[0].Status != 101 || d[0].Err != nil {
				t.Errorf("ended as %+v", d)
			}
			if n := cfg.Stats.Open.Load() + server.Open.Load(); n != 0 || len(server.all()) != 0 {
				t.Errorf("%d and %d connections are counted as open", n, len(server.all()))
			}
		})
	}
}

// TestPanics ends one connection with 500, or with nothing once the answer has begun.
func TestPanics(t *testing.T) {
	early := func(*exchange.Exchange) { panic("on purpose") }
	late := func(x *exchange.Exchange) {
		respond(x, exchange.Unknown, io.MultiReader(strings.NewReader("some"), panicking{}))
	}
	for _, c := range []struct {
		name   string
		handle func(*exchange.Exchange)
		status int
		want   string // the first line, and how it ends
	}{
		{"early", early, 500, "HTTP/1.1 500 Internal Server Error\r\n … close\r\n\r\n"},
		{"late", late, 200, "HTTP/1.1 200 OK\r\n … some\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			timed(t, h1.Defaults(), c.handle, func(t *testing.T, conn net.Conn, s *Server) {
				go io.WriteString(conn, get)
				got := all(t, conn)
				first, last, _ := strings.Cut(c.want, " … ")
				if !strings.HasPrefix(got, first) || !strings.HasSuffix(got, last) {
					t.Errorf("got %q, want %q", got, c.want)
				}
				d := s.Handler.(*script).Ended()
				if len(d) != 1 || d[0].Status != c.status || d[0].Panic != "on purpose" || !bytes.Contains(d[0].Stack, []byte("answer_test.go")) {
					t.Errorf("ended as %+v", d)
				}
				if n := s.Panics.Load(); n != 1 {
					t.Errorf("%d panics are counted", n)
				}
			})
		})
	}
}

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("on purpose") }

// TestStraggler has somebody read the body of a request after its end. Not a byte of the next request may be given to it.
func TestStraggler(t *testing.T) {
	var kept []io.Reader
	during := make(chan error, 1)
	handle := func(x *exchange.Exchange) {
		if body := x.Request.Body; body != nil {
			kept = append(kept, body)
			if len(kept) == 2 { // it is just at it when the request ends
				go func() {
					_, err := body.Read(make([]byte, 100))
					during <- err
				}()
				time.Sleep(time.Second)
			}
		}
		respond(x, 2, strings.NewReader("ok"))
	}
	timed(t, h1.Defaults(), handle, func(t *testing.T, c net.Conn, _ *Server) {
		r := bufio.NewReader(c)
		go io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"+get+"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
		for range 3 {
			if got := exchangetest.Answer(r); got != "200 ok" {
				t.Errorf("answer %q", got)
			}
		}
		if got := exchangetest.Answer(r); got != "EOF" {
			t.Errorf("answer %q, want the end", got)
		}
		for i, body := range kept {
			if n, err := body.Read(make([]byte, 100)); n != 0 || !errors.Is(err, errOver) {
				t.Errorf("body %d: read %d bytes, %v", i, n, err)
			}
		}
		if err := <-during; !errors.Is(err, h1.ErrInterrupted) {
			t.Errorf("the read under way ended with %v", err)
		}
	})
}

// TestContinue tells the client to send a body only if somebody wants it, and before the answer.
func TestContinue(t *testing.T) {
	post := "POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
	handle := func(x *exchange.Exchange) {
		if x.Request.RawPath == "/no" {
			x.Answer(413, "body-too-large")
			return
		}
		echo(x)
	}
	timed(t, h1.Defaults(), handle, func(t *testing.T, c net.Conn, _ *Server) {
		r := bufio.NewReader(c)
		for range 2 {
			go fmt.Fprintf(c, post, "/yes")
			if got := exchangetest.Answer(r); got != "100" {
				t.Errorf("answer %q, want 100", got)
			}
			go io.WriteString(c, "abc")
			if got := exchangetest.Answer(r); got != "200 POST /yes abc" {
				t.Errorf("answer %q", got)
			}
		}
		go fmt.Fprintf(c, post, "/no")
		if got := []string{exchangetest.Answer(r), exchangetest.Answer(r)}; !slices.Equal(got, []string{"413", "EOF"}) {
			t.Errorf("answers %q, want 413 and the end", got)
		}
	})
}

// TestReuse wants nothing of a request to show in the next one on the connection.
func TestReuse(t *testing.T) {
	var seen []string
	handle := func(x *exchange.Exchange) {
		r := &x.Request
		seen = append(seen, fmt.Sprint(r.Method, r.RawPath, r.Query, r.HasQuery, r.Header, r.Length, r.Body != nil, r.Trailer != nil, r.Trailers, r.Upgrade,
			x.User, x.Affinity, x.Hold, x.Target, len(x.Tries), x.Context.Err(), r.ID, r.Path, r.Host))
		x.User, x.Affinity, x.Hold, x.Target, x.Tries = "u", "a", 1, &exchange.Target{}, append(x.Tries, exchange.Try{Status: 7})
		r.ID, r.Path, r.Host = "i", "/p", "h"
		_, _ = io.Copy(io.Discard, io.MultiReader(strings.NewReader(""), bodyOf(r)))
		respond(x, 2, strings.NewReader("ok"))
	}
	long := "POST /long?q HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\nConnection: TE\r\nTE: trailers\r\nX: 1\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n"
	timed(t, h1.Defaults(), handle, func(t *testing.T, c net.Conn, _ *Server) {
		r := bufio.NewReader(c)
		go io.WriteString(c, get+long+get+get)
		for range 4 {
			if got := exchangetest.Answer(r); got != "200 ok" {
				t.Fatalf("answer %q", got)
			}
		}
	})
	if d := cmp.Diff([]string{seen[2], seen[3]}, []string{seen[0], seen[0]}); d != "" {
		t.Errorf("the same request later (-got +first):\n%s", d)
	}
}

func bodyOf(r *exchange.Request) io.Reader {
	if r.Body == nil {
		return strings.NewReader("")
	}
	return r.Body
}
