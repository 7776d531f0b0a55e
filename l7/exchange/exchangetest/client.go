package exchangetest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Answer reads one answer, and returns its status and its body, or the error instead: "EOF"
// where the connection has ended before it.
func Answer(r *bufio.Reader) string {
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

// Trickle writes s byte by byte, one each interval, until the other side has gone.
func Trickle(c net.Conn, s string, interval time.Duration) {
	for i := range len(s) {
		if _, err := c.Write([]byte{s[i]}); err != nil {
			return
		}
		time.Sleep(interval)
	}
}

// An Echo is a server, with the limits of h1.Defaults, that answers with what it was asked.
// Every field is required.
type Echo struct {
	// Timed runs test in a bubble of fake time with a connection to the server, which takes
	// that long before it reads a body and answers.
	Timed func(t *testing.T, takes time.Duration, test func(t *testing.T, c net.Conn))
	// Says is its answer to a request for host a, as [Answer] has it.
	Says func(method, path, body string) string
	// Late is its answer to a head or a body ("head", "body") that does not come in time.
	Late func(part string) string
}

// Get is a request; [Echo.Says] knows it as GET, /a, "".
const Get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n"

const (
	postHead   = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"
	chunksHead = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// TooSlow has clients that take longer than they may.
func (e Echo) TooSlow(t *testing.T) {
	bytewise := func(head, rest string, n int) func(net.Conn) {
		return func(c net.Conn) {
			io.WriteString(c, head)
			Trickle(c, strings.Repeat(rest, n), time.Second)
		}
	}
	for _, c := range []struct {
		name  string
		talk  func(c net.Conn)
		want  string
		after time.Duration
	}{
		{"nothing", func(net.Conn) {}, "EOF", 30 * time.Second},
		{"half a head", bytewise("GET / HTTP/1.1\r\nHo", "", 0), e.Late("head"), 30 * time.Second},
		{"a head byte by byte", bytewise("", "a", 100), e.Late("head"), 30 * time.Second},
		{"half a body", bytewise(postHead+"abc", "", 0), e.Late("body"), 60 * time.Second},
		{"a body byte by byte", bytewise(postHead, "a", 100), e.Late("body"), 30 * time.Second},
		{"chunks byte by byte", bytewise(chunksHead, "1\r\nx\r\n", 100), e.Late("body"), 30 * time.Second},
		{"an extension byte by byte", bytewise(chunksHead+"1;", "x", 1000), e.Late("body"), 30 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			e.Timed(t, 0, func(t *testing.T, conn net.Conn) {
				began := time.Now()
				go c.talk(conn)
				r := bufio.NewReader(conn)
				if got := Answer(r); got != c.want {
					t.Errorf("answer %q, want %q", got, c.want)
				}
				if took := time.Since(began); took < c.after || took > c.after+2*time.Second {
					t.Errorf("after %v, want %v", took, c.after)
				}
				if got := Answer(r); got != "EOF" {
					t.Errorf("answer %q, want the end", got)
				}
			})
		})
	}
}

// Patience has slow clients, and a slow server, that are not too slow.
func (e Echo) Patience(t *testing.T) {
	e.Timed(t, 10*time.Minute, func(t *testing.T, c net.Conn) { // which is no fault of the client's
		r := bufio.NewReader(c)
		go func() {
			io.WriteString(c, Get)
			io.WriteString(c, postHead)
			for range 60 { // 1,000 bytes a second
				io.WriteString(c, strings.Repeat("a", 1000))
				time.Sleep(time.Second)
			}
			time.Sleep(70 * time.Second)
			Trickle(c, Get, 500*time.Millisecond)
		}()
		get := e.Says("GET", "/a", "")
		for _, want := range []string{get, e.Says("POST", "/", strings.Repeat("a", 60000)), get} {
			if got := Answer(r); got != want {
				t.Errorf("answer %.100q, want %.100q", got, want)
			}
		}
	})
}

// Idle keeps a connection for as long as it may be kept, and then longer.
func (e Echo) Idle(t *testing.T) {
	e.Timed(t, 0, func(t *testing.T, c net.Conn) {
		r := bufio.NewReader(c)
		for range 3 {
			go io.WriteString(c, Get)
			if got, want := Answer(r), e.Says("GET", "/a", ""); got != want {
				t.Fatalf("answer %q, want %q", got, want)
			}
			time.Sleep(70 * time.Second)
		}
		began := time.Now()
		if got := Answer(r); got != "EOF" {
			t.Errorf("answer %q, want the end", got)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("ended after 70s and %v, want 75s", took)
		}
	})
}

// Interrupted sends half a body, and wants the answer "done" of a server that has given up to
// wait for the rest.
func Interrupted(t *testing.T, c net.Conn) {
	t.Helper()
	go io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")
	r := bufio.NewReader(c)
	for _, want := range []string{"200 done", "EOF"} {
		if got := Answer(r); got != want {
			t.Errorf("answer %q, want %q", got, want)
		}
	}
}
