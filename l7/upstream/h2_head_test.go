package upstream_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/upstream"
)

// frames runs an endpoint of HTTP/2 that says, for each request, what came after its head.
func frames(t *testing.T) (net.Addr, <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			answerFrames(c, seen)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr(), seen
}

func answerFrames(c net.Conn, seen chan<- string) {
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = fr.WriteSettings()
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	var parts []string
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		over := false
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			var names []string
			for _, h := range f.RegularFields() {
				if f.PseudoValue("method") == "" || h.Name == "trailer" || h.Name == "te" {
					names = append(names, h.Name+"="+h.Value)
				}
			}
			slices.Sort(names)
			parts = append(parts, fmt.Sprintf("head(%s)", strings.Join(names, " ")))
			over = f.StreamEnded()
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = fr.WritePing(true, f.Data)
			}
		case *http2.DataFrame:
			if len(f.Data()) > 0 {
				parts = append(parts, fmt.Sprintf("data(%s)", f.Data()))
			}
			over = f.StreamEnded()
		}
		if !over {
			continue
		}
		seen <- strings.Join(parts, " ")
		parts = nil
		head.Reset()
		_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.Header().StreamID, BlockFragment: head.Bytes(), EndHeaders: true, EndStream: true})
	}
}

// ending is a body with fields after it, which are there once it has ended.
type ending struct {
	io.Reader
	then func()
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err == io.EOF {
		e.then()
	}
	return n, err
}

// TestH2RequestTrailers passes on what comes after a request's body, announced or not, and nothing that may not come there.
func TestH2RequestTrailers(t *testing.T) {
	addr, seen := frames(t)
	c := client(t, upstream.Config{})
	for _, tc := range []struct {
		name      string
		length    int64
		announced []string
		trailer   exchange.Header
		want      string
	}{
		{"none", -1, nil, nil, "head() data(abc)"},
		{"announced", -1, []string{"X-Sum"}, exchange.Header{{Name: "X-Sum", Value: "17"}}, "head(trailer=X-Sum) data(abc) head(x-sum=17)"},
		{"not announced", -1, nil, exchange.Header{{Name: "x-sum", Value: "17"}, {Name: "X-Sum", Value: "18"}}, "head() data(abc) head(x-sum=17 x-sum=18)"},
		{"known length", 3, nil, exchange.Header{{Name: "x-sum", Value: "17"}}, "head() data(abc) head(x-sum=17)"},
		{"announced only", -1, []string{"X-Sum"}, nil, "head(trailer=X-Sum) data(abc)"},
		{
			"forbidden", -1, []string{"Content-Length", "Authorization", "X-Forwarded-For", "bad name"},
			exchange.Header{
				{Name: "Content-Length", Value: "9"}, {Name: "Authorization", Value: "x"}, {Name: "X-Forwarded-For", Value: "6.6.6.6"}, {Name: "Host", Value: "evil"},
				{Name: "a b", Value: "1"}, {Name: "x-bad", Value: "1\r\nx: 2"}, {Name: "X_Real_IP", Value: "6.6.6.6"},
			},
			"head() data(abc)",
		},
	} {
		x := ask(t, "POST", "/", nil, tc.length)
		var trailer exchange.Header
		x.Request.Trailer, x.Request.Announced = &trailer, tc.announced
		x.Request.Body = &ending{strings.NewReader("abc"), func() { trailer = tc.trailer }}
		resp, err := c.Do(x, upstream.Target{Addr: addrOf(addr), Protocol: upstream.GRPC})
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if resp.Body != nil {
			resp.Body.Close()
		}
		if got := <-seen; got != tc.want {
			t.Errorf("%s: the endpoint has seen\n%s, want\n%s", tc.name, got, tc.want)
		}
	}
}

// TestH2LongHead bounds the head of an answer as over HTTP/1.1.
func TestH2LongHead(t *testing.T) {
	s := h2c(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		for i := range n {
			w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("a", 1<<10))
		}
	})
	c := client(t, upstream.Config{})
	for _, tc := range []struct {
		kib, room int
		fits      bool
	}{
		{60, 0, true}, {70, 0, false}, {70, 128 << 10, true}, {140, 128 << 10, false}, {900, 1 << 20, true}, {1100, 1 << 20, false}, {70, 0, false}, {1, 0, true},
	} {
		x := ask(t, "GET", "/", nil, 0)
		x.Request.Query, x.Request.HasQuery = fmt.Sprintf("n=%d", tc.kib), true
		resp, err := c.Do(x, upstream.Target{Addr: addrOf(s.Listener.Addr()), Protocol: upstream.GRPC, Head: tc.room})
		switch e, _ := errors.AsType[*upstream.Error](err); {
		case tc.fits && err != nil, !tc.fits && (e == nil || e.Phase != upstream.Head || e.Timeout || e.Canceled):
			t.Errorf("%d KiB with room for %d: %v, want that it fits: %v", tc.kib, tc.room, err, tc.fits)
		case err == nil:
			read(t, resp)
		}
	}
}
