package h1_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// seeds are heads and bodies with all that the grammar has.
var seeds = []string{
	"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET http://b/c?d HTTP/1.1\r\nHost: a\r\nX: 1\r\nx: 2\r\n\r\n",
	"OPTIONS * HTTP/1.0\r\nConnection: keep-alive, x\r\nX: 1\r\n\r\n",
	"POST /%41?x HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET",
	"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
	"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"GET / HTTP/1.1\nHost: a\n\n",
}

// FuzzParseRequest has net/http read what we accept: it must not refuse it, and must understand the same.
func FuzzParseRequest(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, underscores bool) {
		if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
			b = b[:i+4]
		}
		h, err := h1.ParseRequest(b, h1.Limits{}, underscores)
		if err != nil {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			if _, uerr := url.ParseRequestURI(h.Target); uerr != nil || strings.Contains(err.Error(), "parse") {
				return // escapes and the like are for where paths are made canonical
			}
			t.Fatalf("accepted, but net/http says %v:\n%q", err, b)
		}
		if h.Method != r.Method || h.Host != r.Host || h.Protocol.String() != r.Proto {
			t.Errorf("%s %s %s, net/http reads %s %s %s", h.Method, h.Host, h.Protocol, r.Method, r.Host, r.Proto)
		}
		if want := r.ContentLength; h.Length != want {
			t.Errorf("length %d, net/http reads %d", h.Length, want)
		}
		sameFields(t, h.Header, r.Header)
	})
}

func sameFields(t *testing.T, got exchange.Header, want http.Header) {
	t.Helper()
	for _, f := range got {
		if h1.HopByHop(f.Name) {
			t.Errorf("field %q is of one hop", f.Name)
		}
		if !h1.ValidToken(f.Name) || !h1.ValidValue(f.Value) {
			t.Errorf("field %q: %q is not valid", f.Name, f.Value)
		}
		if name := textproto.CanonicalMIMEHeaderKey(f.Name); !slices.Equal(got.Values(f.Name), want[name]) {
			t.Errorf("values of %q are %q, net/http reads %q", f.Name, got.Values(f.Name), want[name])
		}
	}
}

// FuzzGate has net/http read what a Gate lets through: as many requests as the Gate has counted, each by its
// number, and the same bodies as net/http finds in the client's own bytes.
func FuzzGate(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s+s), false)
		f.Add([]byte(s+seeds[0]), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, pieces bool) {
		var in io.Reader = bytes.NewReader(raw)
		if pieces {
			in = iotest.OneByteReader(in)
		}
		out, err := passed(in, 4096)
		if strings.Contains(strings.ToLower(string(raw)), "websocket") {
			return // from there on it is not HTTP
		}
		passedOn, theirs := bufio.NewReader(strings.NewReader(out)), bufio.NewReader(bytes.NewReader(raw))
		for n := uint64(1); ; n++ {
			r, rerr := http.ReadRequest(passedOn)
			if rerr != nil {
				if rerr != io.EOF {
					t.Fatalf("net/http cannot read what was passed: %v\n%q", rerr, out)
				}
				return
			}
			if r.RequestURI != "/"+uitoa(n) {
				t.Fatalf("request %d is %s", n, r.RequestURI)
			}
			body, berr := io.ReadAll(r.Body)
			if berr != nil {
				if err == io.EOF || passedOn.Buffered() > 0 {
					t.Fatalf("a broken body, and the Gate goes on: %v, %v\n%q", berr, err, out)
				}
				return
			}
			compare(t, theirs, r, body)
		}
	})
}

// compare reads the same request from the client's bytes, if net/http can.
func compare(t *testing.T, theirs *bufio.Reader, r *http.Request, body []byte) {
	want, err := http.ReadRequest(theirs)
	if err != nil {
		theirs.Discard(theirs.Buffered())
		return
	}
	wantBody, err := io.ReadAll(want.Body)
	if err != nil || r.Method != want.Method && r.Method == "GET" {
		theirs.Discard(theirs.Buffered()) // refused, so GET stands for it
		return
	}
	if r.ContentLength != want.ContentLength || r.Method != want.Method {
		if r.Close && r.ContentLength == 0 && r.Method == "GET" {
			theirs.Discard(theirs.Buffered())
			return
		}
		t.Fatalf("passed %s with %d bytes, the client sent %s with %d", r.Method, r.ContentLength, want.Method, want.ContentLength)
	}
	if !bytes.Equal(body, wantBody) {
		t.Fatalf("body %q, the client sent %q", body, wantBody)
	}
}

func uitoa(n uint64) string {
	b := []byte{}
	for ; n > 0; n /= 10 {
		b = append(b, byte('0'+n%10))
	}
	slices.Reverse(b)
	return string(b)
}

// FuzzParseResponse wants nothing that net/http's client would refuse or read otherwise.
func FuzzParseResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n",
		"HTTP/1.0 404\r\nConnection: keep-alive\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
			b = b[:i+4]
		}
		h, err := h1.ParseResponse(b, h1.Limits{})
		if err != nil {
			return
		}
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
		if err != nil {
			t.Fatalf("accepted, but net/http says %v:\n%q", err, b)
		}
		if h.Status != r.StatusCode {
			t.Errorf("status %d, net/http reads %d", h.Status, r.StatusCode)
		}
		if bodyless := h.Status < 200 || h.Status == 204 || h.Status == 304; !bodyless && h.Length != r.ContentLength {
			t.Errorf("length %d, net/http reads %d", h.Length, r.ContentLength)
		}
		sameFields(t, h.Header, r.Header)
	})
}

// FuzzChunks compares with a reader that knows the whole body beforehand, and wants the same however the bytes are cut.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"3\r\nabc\r\n0\r\n\r\n", "a;b=c\r\n0123456789\r\n00\r\nX: 1\r\n\r\n", "3\nabc\n0\n\n", "fffffffffffffff\r\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		whole, wholeErr := decode(b, len(b)+1)
		parts, partsErr := decode(b, max(cut, 1))
		if whole != parts || wholeErr != partsErr {
			t.Fatalf("%q, %v in one piece, %q, %v in pieces of %d", whole, wholeErr, parts, partsErr, cut)
		}
		if wholeErr != nil {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(
			strings.NewReader("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(b))))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(r.Body); string(body) != whole || err != nil && !lenientTrailer(err) {
			t.Fatalf("%q, net/http reads %q, %v", whole, body, err)
		}
	})
}

// lenientTrailer tells errors about trailer fields, which a Chunks does not look at.
func lenientTrailer(err error) bool {
	return strings.Contains(err.Error(), "header") || strings.Contains(err.Error(), "trailer")
}

func decode(b []byte, cut int) (string, error) {
	c := h1.NewChunks(h1.Limits{})
	var out strings.Builder
	for len(b) > 0 {
		piece := b[:min(cut, len(b))]
		b = b[len(piece):]
		for len(piece) > 0 {
			if c.Done() {
				return out.String(), nil
			}
			if left := c.Left(); left > 0 {
				n := min(left, int64(len(piece)))
				out.Write(piece[:n])
				c.Took(n)
				piece = piece[n:]
				continue
			}
			n, err := c.Next(piece)
			piece = piece[n:]
			if err != nil {
				return out.String(), err
			}
		}
	}
	if !c.Done() {
		return out.String(), io.ErrUnexpectedEOF
	}
	return out.String(), nil
}
