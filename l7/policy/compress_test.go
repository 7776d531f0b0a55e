package policy

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/andybalholm/brotli"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

func TestAccepts(t *testing.T) {
	for _, c := range []struct {
		fields       []string // values of Accept-Encoding
		gzip, brotli bool
		want         string
	}{
		{nil, true, true, ""},
		{[]string{"gzip"}, true, true, "gzip"},
		{[]string{"x-gzip"}, true, true, "gzip"},
		{[]string{"gzip, deflate, br, zstd"}, true, true, "br"},
		{[]string{"gzip, deflate, br"}, true, false, "gzip"},
		{[]string{"br"}, true, false, ""},
		{[]string{"gzip;q=1.0, br;q=0.5"}, true, true, "gzip"},
		{[]string{"gzip;q=0.5", "br;q=0.7"}, true, true, "br"},
		{[]string{"gzip;q=0"}, true, true, ""},
		{[]string{"gzip;q=0.000, *"}, true, true, "br"},
		{[]string{"*"}, true, false, "gzip"},
		{[]string{"*;q=0"}, true, true, ""},
		{[]string{"identity"}, true, true, ""},
		{[]string{"identity;q=1, gzip;q=0.5"}, true, true, ""},
		{[]string{"identity;q=0.5, gzip;q=0.5"}, true, true, "gzip"},
		{[]string{"gzip;q=2"}, true, true, ""},
		{[]string{"gzip;q=0.1234"}, true, true, ""},
		{[]string{"gzip;q="}, true, true, ""},
		{[]string{"GZIP ; x=y ; Q=0.5"}, true, true, "gzip"},
		{[]string{"gzipped, brotli"}, true, true, ""},
		{[]string{""}, true, true, ""},
	} {
		var h exchange.Header
		for _, v := range c.fields {
			h.Add("Accept-Encoding", v)
		}
		diff(t, strings.Join(c.fields, "|"), accepts(h).choose(c.gzip, c.brotli), c.want)
	}
}

func FuzzAcceptEncoding(f *testing.F) {
	for _, s := range []string{"gzip;q=0.5, br", "*;q=0", "identity;q=1.000", ",;,=q", "gzip;q=1.0001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, q := range weighted(s) {
			if q < 0 || q > 1000 || name == "" || !strings.Contains(s, name) {
				t.Errorf("%q: %q has weight %d", s, name, q)
			}
		}
		got := accepts(exchange.Header{{Name: "Accept-Encoding", Value: s}}).choose(true, true)
		lower := strings.ToLower(s)
		if got == "br" && !strings.Contains(lower, "br") && !strings.Contains(s, "*") ||
			got == "gzip" && !strings.Contains(lower, "gzip") && !strings.Contains(s, "*") {
			t.Errorf("%q chooses %s", s, got)
		}
	})
}

func decode(t *testing.T, encoding string, r io.Reader) string {
	t.Helper()
	switch encoding {
	case "gzip":
		z, err := stdgzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = z
	case "br":
		r = brotli.NewReader(r)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("decode %s: %v", encoding, err)
	}
	return string(b)
}

func TestCompress(t *testing.T) {
	page := strings.Repeat("<p>all work and no play</p>\n", 4000)
	config := Config{Compress: &Compress{Gzip: 5, Brotli: 4, MinLength: 100, Types: []string{"text/html", "application/json", "image/*"}}}
	html := []string{"Content-Type", "text/html; charset=utf-8"}
	for _, c := range []struct {
		name     string
		accept   string
		response *exchange.Response
		edit     func(*exchange.Exchange)
		want     string // Content-Encoding
		vary     bool
	}{
		{"gzip", "gzip", backend(200, page, html...), nil, "gzip", true},
		{"brotli", "gzip, br", backend(200, page, html...), nil, "br", true},
		{"an error", "gzip", backend(404, page, html...), nil, "gzip", true},
		{"of unknown length", "gzip", backend(200, page, html...), func(x *exchange.Exchange) { x.Response.Length = exchange.Unknown }, "gzip", true},
		{"a family of types", "gzip", backend(200, page, "Content-Type", "IMAGE/svg+xml"), nil, "gzip", true},
		{"not accepted", "", backend(200, page, html...), nil, "", true},
		{"another type", "gzip", backend(200, page, "Content-Type", "video/mp4"), nil, "", false},
		{"no type", "gzip", backend(200, page), nil, "", false},
		{"short", "gzip", backend(200, "short", html...), nil, "", false},
		{"empty", "gzip", backend(200, "", html...), nil, "", false},
		{"encoded already", "gzip", backend(200, page, append(html, "Content-Encoding", "zstd")...), nil, "zstd", false},
		{"identity", "gzip", backend(200, page, append(html, "Content-Encoding", "identity")...), nil, "gzip", true},
		{"no-transform", "gzip", backend(200, page, append(html, "Cache-Control", "public, No-Transform")...), nil, "", false},
		{"a part", "gzip", backend(206, page, html...), nil, "", false},
		{"Content-Range", "gzip", backend(200, page, append(html, "Content-Range", "bytes 0-1/2")...), nil, "", false},
		{"nothing", "gzip", backend(204, "", html...), nil, "", false},
		{"not modified", "gzip", backend(304, "", html...), func(x *exchange.Exchange) { x.Response.Length = 1000 }, "", false},
		{"HEAD", "gzip", backend(200, "", html...), func(x *exchange.Exchange) { x.Request.Method, x.Response.Length = "HEAD", 1000 }, "", true},
		{"HTTP/1.0", "gzip", backend(200, page, html...), func(x *exchange.Exchange) { x.Request.Protocol = exchange.HTTP10 }, "", true},
		{"gRPC", "gzip", backend(200, page, "Content-Type", "application/grpc"), nil, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newExchange(t, "GET", "http://a.example/")
			set(&x.Request.Header, "Accept-Encoding", c.accept)
			x.Response = c.response
			x.Response.Header.Add("ETag", `"x"`)
			x.Response.Header.Add("Accept-Ranges", "bytes")
			x.Response.Header.Add("Content-MD5", "abc")
			if c.edit != nil {
				c.edit(x)
			}
			length := x.Response.Length
			compile(t, config, env(t)).Apply(x)
			h := x.Response.Header
			diff(t, "Content-Encoding", h.Get("Content-Encoding"), c.want)
			diff(t, "Vary", h.Has("Vary"), c.vary)
			compressed := c.want == "gzip" || c.want == "br"
			if !compressed {
				diff(t, "ETag", h.Get("ETag"), `"x"`)
				diff(t, "length", x.Response.Length, length)
				return
			}
			diff(t, "ETag", h.Get("ETag"), `W/"x"`)
			diff(t, "length", x.Response.Length, exchange.Unknown)
			if h.Has("Accept-Ranges") || h.Has("Content-MD5") {
				t.Errorf("what is said of the bytes before is still said: %v", h)
			}
			diff(t, "body", decode(t, c.want, x.Response.Body), page)
			if err := x.Response.Body.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCompressEventStream makes sure that events are never held back, whatever types are listed.
func TestCompressEventStream(t *testing.T) {
	x := newExchange(t, "GET", "http://a.example/", "Accept-Encoding", "gzip")
	x.Response = backend(200, "data: 1\n\n", "Content-Type", "text/event-stream")
	compile(t, Config{Compress: &Compress{Gzip: 1, Types: []string{"*", "text/event-stream"}}}, env(t)).Apply(x)
	diff(t, "Content-Encoding", x.Response.Header.Get("Content-Encoding"), "")
}

// TestCompressFlushes reads from a backend that pauses: what it has said so far gets to the client before it
// says more.
func TestCompressFlushes(t *testing.T) {
	for _, encoding := range []string{"gzip", "br"} {
		t.Run(encoding, func(t *testing.T) {
			r, w := io.Pipe()
			pools := newCompressors()
			body := pools.reader(r, encoding, 4)
			var decoder io.Reader
			next := make(chan bool)
			go func() {
				for range next {
					_, _ = io.WriteString(w, "line\n")
				}
				w.Close()
			}()
			for i := range 5 {
				next <- true
				if decoder == nil {
					decoder = lazily(t, encoding, body)
				}
				line := make([]byte, 5)
				if _, err := io.ReadFull(decoder, line); err != nil || string(line) != "line\n" {
					t.Fatalf("line %d: %q, %v", i, line, err)
				}
			}
			close(next)
			rest, err := io.ReadAll(decoder)
			if len(rest) != 0 || err != nil {
				t.Errorf("after the end: %q, %v", rest, err)
			}
		})
	}
}

func lazily(t *testing.T, encoding string, r io.Reader) io.Reader {
	t.Helper()
	if encoding == "br" {
		return brotli.NewReader(r)
	}
	z, err := stdgzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// failing is a body that ends in an error.
type failing struct {
	closing
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err == io.EOF {
		err = errTorn
	}
	return n, err
}

var errTorn = errors.New("connection reset")

// TestCompressTorn makes sure that an answer which breaks off does not look whole.
func TestCompressTorn(t *testing.T) {
	for _, encoding := range []string{"gzip", "br"} {
		f := &failing{closing{Reader: strings.NewReader(strings.Repeat("abc", 1000))}}
		body := newCompressors().reader(f, encoding, 4)
		b, err := io.ReadAll(body)
		if !errors.Is(err, errTorn) {
			t.Errorf("%s: error %v, want %v", encoding, err, errTorn)
		}
		if encoding == "gzip" {
			if z, err := stdgzip.NewReader(bytes.NewReader(b)); err == nil {
				if _, err = io.ReadAll(z); err == nil {
					t.Error("what came is a whole gzip file")
				}
			}
		}
		if _, err := body.Read(make([]byte, 1)); !errors.Is(err, errTorn) {
			t.Errorf("%s: the error after it: %v", encoding, err)
		}
		if err := body.Close(); err != nil || !f.closed {
			t.Errorf("%s: closed: %v, %v", encoding, f.closed, err)
		}
	}
}

// TestCompressPools uses the same writers for many bodies at once, some of them abandoned: nothing of one gets into another.
func TestCompressPools(t *testing.T) {
	pools := newCompressors()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			encoding := [...]string{"gzip", "br"}[i%2]
			for j := range 30 {
				text := strings.Repeat(string(rune('a'+i)), 1000*(j+1))
				body := pools.reader(io.NopCloser(strings.NewReader(text)), encoding, 1+i%4)
				if j%3 == 0 {
					_, _ = body.Read(make([]byte, 3))
					body.Close()
					body.Close()
					if _, err := body.Read(make([]byte, 1)); err != io.ErrClosedPipe {
						t.Errorf("reading what is closed: %v", err)
					}
					continue
				}
				if got := decode(t, encoding, body); got != text {
					t.Errorf("%d bytes came as %d", len(text), len(got))
				}
				body.Close()
			}
		})
	}
	wg.Wait()
}

func BenchmarkGzip(b *testing.B) {
	pools := newCompressors()
	text := strings.Repeat("<p>all work and no play makes a dull page</p>\n", 400)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		r := pools.reader(io.NopCloser(strings.NewReader(text)), "gzip", 1)
		_, _ = io.Copy(io.Discard, r)
		r.Close()
	}
}
