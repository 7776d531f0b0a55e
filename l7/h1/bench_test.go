package h1_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"

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

// endless gives the same bytes for ever, as many at a time as one write has.
type endless struct{ b []byte }

func (e endless) Read(p []byte) (int, error) { return copy(p, e.b), nil }

// gateReads returns a function that has a Gate pass one request.
func gateReads(raw string) func() {
	g := h1.NewGate(&script{r: endless{[]byte(raw)}}, &h1.Config{Stats: new(h1.Stats)})
	buf := make([]byte, 4096)
	return func() {
		if _, err := g.Read(buf); err != nil {
			panic(err)
		}
	}
}

func BenchmarkGate(b *testing.B) {
	read := gateReads(browser)
	b.ReportAllocs()
	for b.Loop() {
		read()
	}
}

func BenchmarkParseRequest(b *testing.B) {
	raw := []byte(browser)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h1.ParseRequest(raw, h1.Limits{}, false); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStandard is what net/http needs for the same head.
func BenchmarkStandard(b *testing.B) {
	r := bufio.NewReader(nil)
	in := bytes.NewReader(nil)
	b.ReportAllocs()
	for b.Loop() {
		in.Reset([]byte(browser))
		r.Reset(in)
		if _, err := http.ReadRequest(r); err != nil {
			b.Fatal(err)
		}
	}
}

// TestGateAllocates wants two allocations for a request: its head as one string and the fields.
func TestGateAllocates(t *testing.T) {
	read := gateReads(browser)
	if n := testing.AllocsPerRun(1000, read); n > 2 {
		t.Errorf("%v allocations for a request, want 2", n)
	}
}

// BenchmarkServer is a whole request through net/http behind a Gate.
func BenchmarkServer(b *testing.B) {
	cfg := h1.Defaults()
	cfg.MaxRequests = 0
	addr := serve(b, cfg, func(w http.ResponseWriter, r *http.Request) {
		_ = h1.Of(r).Header
		w.WriteHeader(204)
	})
	conn := dial(b, addr)
	want := []byte("\r\n\r\n")
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		io.WriteString(conn, browser)
		n, err := conn.Read(buf)
		if err != nil || !bytes.HasSuffix(buf[:n], want) {
			b.Fatalf("%q, %v", buf[:n], err)
		}
	}
}
