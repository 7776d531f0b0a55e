package wire

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// browser is a head as browsers send it.
const browser = "GET /api/v1/items?page=2 HTTP/1.1\r\n" +
	"Host: shop.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\n" +
	"Connection: keep-alive\r\n" +
	"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n" +
	"Cache-Control: max-age=0\r\n" +
	"X-Requested-With: XMLHttpRequest\r\n\r\n"

// A caller is a connection on which the same request comes so many times, each after the answer to the last.
type caller struct {
	net.Conn
	left int
}

func (c *caller) Read(p []byte) (int, error) {
	if c.left--; c.left < 0 {
		return 0, io.EOF
	}
	return copy(p, browser), nil
}

func (c *caller) Write(p []byte) (int, error)      { return len(p), nil }
func (c *caller) Close() error                     { return nil }
func (c *caller) SetReadDeadline(time.Time) error  { return nil }
func (c *caller) SetWriteDeadline(time.Time) error { return nil }
func (c *caller) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *caller) LocalAddr() net.Addr              { return &net.TCPAddr{} }

// BenchmarkServe is a request and its answer without the kernel, and without a Handler that does anything.
func BenchmarkServe(b *testing.B) {
	cfg := h1.Defaults()
	cfg.MaxRequests = 0
	resp := exchange.Response{Status: 200, Length: 256, Header: exchange.Header{
		{Name: "Server", Value: "nginx"}, {Name: "Date", Value: "Sun, 22 Nov 2026 12:00:00 GMT"}, {Name: "Content-Type", Value: "text/plain"},
		{Name: "Last-Modified", Value: "Sun, 22 Nov 2026 12:00:00 GMT"}, {Name: "ETag", Value: `"6921a5c0-100"`}, {Name: "Accept-Ranges", Value: "bytes"},
	}}
	in := strings.NewReader(strings.Repeat("x", 256))
	body := io.NopCloser(in)
	s := newServer(quick(func(x *exchange.Exchange) {
		in.Seek(0, io.SeekStart)
		resp.Body = body
		x.Response = &resp
	}))
	b.ReportAllocs()
	b.ResetTimer()
	s.Serve(h1.NewGate(&caller{left: b.N}, cfg))
}

// quick is a Handler that does nothing else.
type quick func(*exchange.Exchange)

func (q quick) Handle(x *exchange.Exchange)   { q(x) }
func (q quick) Done(*exchange.Exchange, Done) {}

func (q quick) Tunnel(*exchange.Exchange, net.Conn, []byte) (in, out int64, err error) { return }
