package h1_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/fairlead-project/fairlead/l7/h1"
)

// A script is a connection on which a client has sent something and says nothing more.
type script struct {
	net.Conn
	r io.Reader
}

func (s *script) Read(p []byte) (int, error)      { return s.r.Read(p) }
func (s *script) Write(p []byte) (int, error)     { return len(p), nil }
func (s *script) Close() error                    { return nil }
func (s *script) SetReadDeadline(time.Time) error { return nil }
func (s *script) RemoteAddr() net.Addr            { return &net.TCPAddr{} }

// passed returns what a Gate lets through, and the error at the end.
func passed(r io.Reader, size int) (string, error) {
	g := h1.NewGate(&script{r: r}, h1.Defaults())
	var out strings.Builder
	for buf := make([]byte, size); ; {
		n, err := g.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			return out.String(), err
		}
	}
}

// TestPieces wants the same words of a Gate however the bytes come and go.
func TestPieces(t *testing.T) {
	head := "GET /1 HTTP/1.1\r\nHost:\r\n\r\n"
	cases := []struct {
		name, raw, want string
		err             error
	}{
		{"plain", ok, head, io.EOF},
		{"two", ok + "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", head + "HEAD /2 HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", io.EOF},
		{"refused", ok + "GET / HTTP/1.1\r\nHost: a b\r\n\r\n" + ok, head + "GET /2 HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", io.EOF},
		{"sized", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde" + ok, "POST /1 HTTP/1.1\r\nHost:\r\nContent-Length: 5\r\n\r\nabcde" + "GET /2 HTTP/1.1\r\nHost:\r\n\r\n", io.EOF},
		{
			"chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0010;a=b\r\n0123456789abcdef\r\n1\r\nx\r\n00\r\nA: b\r\n\r\n" + ok,
			"POST /1 HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n1\r\nx\r\n0\r\n\r\n" + "GET /2 HTTP/1.1\r\nHost:\r\n\r\n", io.EOF,
		},
		{"cut in a head", ok + "GET / HT", head, io.EOF},
		{"cut in a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", "POST /1 HTTP/1.1\r\nHost:\r\nContent-Length: 5\r\n\r\nab", io.ErrUnexpectedEOF},
		{"cut in a chunk", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", "POST /1 HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", io.ErrUnexpectedEOF},
		{"cut in a size", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3", "POST /1 HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n", io.ErrUnexpectedEOF},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n" + ok, "GET /1 HTTP/1.0\r\nHost:\r\nConnection: close\r\n\r\n", io.EOF},
		{"HTTP/1.0 kept alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET /1 HTTP/1.0\r\nHost:\r\nConnection: keep-alive\r\n\r\n", io.EOF},
		{"expectation", "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", "POST /1 HTTP/1.1\r\nHost:\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx", io.EOF},
		{"websocket", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\nGET / HTTP/1.1\r\n", "GET /1 HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n", io.EOF},
		{"large head", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 20000) + "\r\n\r\n" + ok, head + "GET /2 HTTP/1.1\r\nHost:\r\n\r\n", io.EOF},
	}
	readers := map[string]func(io.Reader) io.Reader{
		"whole":           func(r io.Reader) io.Reader { return r },
		"bytes":           iotest.OneByteReader,
		"halves":          iotest.HalfReader,
		"error with data": iotest.DataErrReader,
	}
	for _, c := range cases {
		for name, pieces := range readers {
			for _, size := range []int{1, 7, 4096, 100000} {
				t.Run(fmt.Sprintf("%s/%s/%d", c.name, name, size), func(t *testing.T) {
					got, err := passed(pieces(strings.NewReader(c.raw)), size)
					if got != c.want || err != c.err {
						t.Errorf("passed %q, %v, want %q, %v", got, err, c.want, c.err)
					}
				})
			}
		}
	}
}

// TestInterrupted wants bytes that come with a passed deadline not to be lost.
func TestInterrupted(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	g := h1.NewGate(server, h1.Defaults())
	buf := make([]byte, 100)
	done := make(chan error)
	go func() {
		_, err := g.Read(buf[:1]) // as net/http waits for the client in the background
		done <- err
	}()
	client.Write([]byte("GET /a HTTP/1.1\r\nHo")) // returns when it has been read
	g.SetReadDeadline(time.Unix(1, 0))
	if err := <-done; !os.IsTimeout(err) {
		t.Fatalf("error %v, want a timeout", err)
	}
	g.SetReadDeadline(time.Time{})
	go client.Write([]byte("st: a\r\n\r\n"))
	n, err := g.Read(buf)
	if got, want := string(buf[:n]), "GET /1 HTTP/1.1\r\nHost:\r\n\r\n"; got != want || err != nil {
		t.Errorf("passed %q, %v, want %q", got, err, want)
	}
}
