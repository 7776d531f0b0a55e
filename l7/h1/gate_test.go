package h1_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/h1"
)

// gated is a listener that puts a Gate before every connection.
type gated struct {
	net.Listener
	cfg *h1.Config
}

func (l gated) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return h1.NewGate(c, l.cfg), nil
}

// serve runs net/http behind Gates and returns its address.
func serve(t testing.TB, cfg *h1.Config, handler http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	s.Listener.Close()
	s.Listener = gated{l, cfg}
	cfg.Configure(s.Config)
	s.Start()
	t.Cleanup(s.Close)
	return l.Addr().String()
}

// echo answers with what the Gate says that was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	q := h1.Of(r)
	if q.Refused != nil {
		http.Error(w, q.Refused.Reason, q.Refused.Status)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		if e, ok := err.(*h1.Error); ok {
			http.Error(w, e.Reason, e.Status)
			return
		}
		panic(http.ErrAbortHandler)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s host=%s", q.Method, q.Target, q.Protocol, q.Host)
	for _, f := range q.Header {
		fmt.Fprintf(&b, " %s=%q", f.Name, f.Value)
	}
	if len(body) > 0 {
		fmt.Fprintf(&b, " body=%q", body)
	}
	for _, f := range q.Trailer {
		fmt.Fprintf(&b, " trailer %s=%q", f.Name, f.Value)
	}
	io.WriteString(w, b.String())
}

// send writes raw bytes and returns all answers, each as status and body, until the server closes the connection.
func send(t *testing.T, addr, raw string) []string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go io.WriteString(c, raw)
	var got []string
	for r := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Errorf("after %q: %v", got, err)
			}
			return got
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, body)))
		if resp.Close {
			if b, _ := r.Peek(1); len(b) > 0 {
				t.Errorf("bytes after the last answer")
			}
			return got
		}
	}
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
