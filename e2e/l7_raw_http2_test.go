//go:build linux

package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// testHandshakes begins many handshakes that cannot succeed, and wants one that can to be as quick as ever.
func (r *l7Raw) testHandshakes(t *testing.T) {
	for range 64 {
		c := tls.Client(r.proxy.raw(t, 443), &tls.Config{
			InsecureSkipVerify: true, ServerName: "node.test", MaxVersion: tls.VersionTLS12,
			CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, // the certificate is ECDSA
		})
		if c.HandshakeContext(t.Context()) == nil {
			t.Error("a handshake without a common cipher suite succeeds")
		}
		c.Close()
	}
	begun := time.Now()
	a := fetch(t, r.proxy.client(), "https://node.test/")
	if took := time.Since(begun); a.Status != http.StatusOK || took > 2*time.Second {
		t.Errorf("afterwards a good request: %d after %v", a.Status, took)
	}
}

// An h2Conn is the client's end of a connection of HTTP/2, frame by frame.
type h2Conn struct {
	net.Conn
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	next  uint32
}

func (r *l7Raw) h2(t *testing.T) *h2Conn {
	t.Helper()
	c := tls.Client(r.proxy.raw(t, 443), &tls.Config{InsecureSkipVerify: true, ServerName: "node.test", NextProtos: []string{"h2"}})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return newH2Conn(t, c)
}

// newH2Conn begins HTTP/2 on a connection.
func newH2Conn(t *testing.T, c net.Conn) *h2Conn {
	t.Helper()
	h := &h2Conn{Conn: c, Framer: http2.NewFramer(c, c), next: 1}
	h.enc = hpack.NewEncoder(&h.block)
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return h
}

// head returns a block of fields, given as "name: value".
func (h *h2Conn) head(fields ...string) []byte {
	h.block.Reset()
	for _, f := range fields {
		name, value, _ := strings.Cut(strings.TrimPrefix(f, ":"), ": ")
		if f[0] == ':' {
			name = ":" + name
		}
		_ = h.enc.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	return bytes.Clone(h.block.Bytes())
}

// open begins a stream.
func (h *h2Conn) open(end bool, fields ...string) (uint32, error) {
	id := h.next
	h.next += 2
	return id, h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h.head(fields...), EndStream: end, EndHeaders: true})
}

// outcome reads until a stream has an answer, or is over: its status, "reset" or "gone".
func (h *h2Conn) outcome(id uint32) string {
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return "gone"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == id {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return "reset"
			}
		case *http2.GoAwayFrame:
			return "gone"
		}
	}
}

// testHTTP2Requests sends requests that would be others once they are written as HTTP/1.1.
func (r *l7Raw) testHTTP2Requests(t *testing.T) {
	base := []string{":method: GET", ":scheme: https", ":authority: node.test", ":path: /h2"}
	with := func(fields ...string) []string { return append(append([]string{}, base...), fields...) }
	instead := func(i int, field string) []string {
		out := append([]string{}, base...)
		out[i] = field
		return out
	}
	for _, c := range []struct {
		name   string
		fields []string
		want   string // of these
	}{
		{"fine", base, "200"},
		{"transfer-encoding", with("transfer-encoding: chunked"), "400 reset gone"},
		{"connection", with("connection: close"), "400 reset gone"},
		{"upper case", with("X-Upper: a"), "400 reset gone"},
		{"line end in value", with("x-a: b\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: node.test"), "400 reset gone"},
		{"line feed in value", with("x-a: b\nx-b: c"), "400 reset gone"},
		{"line end in name", with("x-a\r\nx-b: c"), "400 reset gone"},
		{"colon in name", with("x:a: c"), "400 reset gone"},
		{"line end in path", instead(3, ":path: / HTTP/1.1\r\nhost: node.test\r\n\r\nGET /smuggled"), "400 reset gone"},
		{"blank in path", instead(3, ":path: /a HTTP/1.1"), "400 reset gone"},
		{"path without slash", instead(3, ":path: smuggled"), "400 reset gone"},
		{"empty path", instead(3, ":path: "), "400 reset gone"},
		{"line end in method", instead(0, ":method: GET /smuggled HTTP/1.1\r\n"), "400 reset gone"},
		{"bad authority", instead(2, ":authority: node.test/smuggled"), "400 reset gone"},
		{"authority with user", instead(2, ":authority: a@node.test"), "400 reset gone"},
		{"other host", with("host: evil.test"), "400 reset gone"},
		{"two paths", with(":path: /smuggled"), "400 reset gone"},
		{"pseudo after field", append([]string{"x-a: b"}, base...), "400 reset gone"},
		{"unknown pseudo", append([]string{":protocol: websocket"}, base...), "400 reset gone"},
		{"CONNECT", []string{":method: CONNECT", ":authority: node.test:443"}, "400 404 405 501 reset gone"},
		{"wrong length", with("content-length: 10"), "400 reset gone"},
	} {
		h := r.h2(t)
		id, err := h.open(true, c.fields...)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.outcome(id); !strings.Contains(" "+c.want+" ", " "+got+" ") {
			t.Errorf("%s: got %q, want one of %s", c.name, got, c.want)
		}
		h.Close()
	}
	h := r.h2(t)
	id, err := h.open(false, ":method: POST", ":scheme: https", ":authority: node.test", ":path: /trailers", "x-forwarded-for: 6.6.6.6", "te: trailers")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(h.WriteData(id, false, []byte("abc")), h.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: h.head("x-sum: 17", "x-forwarded-for: 6.6.6.6", "content-length: 9", "authorization: x"), EndStream: true, EndHeaders: true,
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := h.outcome(id); got != "200" {
		t.Fatalf("trailers: got %s", got)
	}
	f, err := h.ReadFrame()
	data, ok := f.(*http2.DataFrame)
	if err != nil || !ok {
		t.Fatalf("got %v, %v", f, err)
	}
	if text := string(data.Data()); strings.Contains(text, "6.6.6.6") || strings.Contains(text, "uthorization") || !strings.Contains(text, `"body":"abc"`) {
		t.Errorf("the server has seen %s", text)
	}
	r.untouched(t, "requests of HTTP/2")
}

// testHTTP2Floods does what makes servers work for nothing, and wants others to be served meanwhile and
// memory to stay within bounds.
func (r *l7Raw) testHTTP2Floods(t *testing.T) {
	get := []string{":method: GET", ":scheme: https", ":authority: go.test", ":path: /"}
	for name, flood := range map[string]func(*h2Conn) error{
		"rapid reset": func(h *h2Conn) error {
			for range 20_000 {
				id, err := h.open(true, get...)
				if err = errors.Join(err, h.WriteRSTStream(id, http2.ErrCodeCancel)); err != nil {
					return err
				}
			}
			return nil
		},
		"made you reset": func(h *h2Conn) error { // the server itself ends streams that break the rules (CVE-2025-8671)
			h.AllowIllegalWrites = true
			return repeat(20_000, func() error {
				id, err := h.open(false, ":method: POST", ":scheme: https", ":authority: go.test", ":path: /")
				return errors.Join(err, h.WriteWindowUpdate(id, 0))
			})
		},
		"continuation": func(h *h2Conn) error {
			err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.head(get...), EndStream: true})
			for i := 0; err == nil && i < 20_000; i++ {
				err = h.WriteContinuation(1, false, h.head(fmt.Sprintf("x-%d: %s", i, strings.Repeat("a", 1000))))
			}
			return err
		},
		"empty continuation": func(h *h2Conn) error {
			err := h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.head(get...), EndStream: true})
			for i := 0; err == nil && i < 100_000; i++ {
				err = h.WriteContinuation(1, false, nil)
			}
			return err
		},
		"pings":    func(h *h2Conn) error { return repeat(200_000, func() error { return h.WritePing(false, [8]byte{}) }) },
		"settings": func(h *h2Conn) error { return repeat(200_000, func() error { return h.WriteSettings() }) },
		"empty data": func(h *h2Conn) error {
			id, err := h.open(false, ":method: POST", ":scheme: https", ":authority: go.test", ":path: /")
			if err != nil {
				return err
			}
			return repeat(200_000, func() error { return h.WriteData(id, false, nil) })
		},
		"streams without end": func(h *h2Conn) error {
			return repeat(5_000, func() error {
				_, err := h.open(false, ":method: POST", ":scheme: https", ":authority: go.test", ":path: /")
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := r.h2(t)
			_ = h.SetDeadline(time.Now().Add(10 * time.Second))
			done := make(chan error, 1)
			go func() { done <- flood(h) }()
			client := r.proxy.client()
			slowest := time.Duration(0)
			for range 20 {
				begun := time.Now()
				if a := fetch(t, client, "https://node.test/own"); a.Status != http.StatusOK {
					t.Errorf("another client got %d meanwhile", a.Status)
				}
				slowest = max(slowest, time.Since(begun))
			}
			err := <-done
			h.Close()
			if slowest > 3*time.Second {
				t.Errorf("another client had to wait for %v", slowest)
			}
			rss := r.proxy.memory(t)
			t.Logf("the flood ended with: %v; others waited for %v at most; the process has %d MiB", err, slowest, rss>>20)
			if rss > 400<<20 {
				t.Errorf("the process has %d MiB", rss>>20)
			}
		})
	}
}

func repeat(n int, do func() error) error {
	for range n {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// memory returns how much memory the process has.
func (p *l7Proxy) memory(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}
