package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

func TestBody(t *testing.T) {
	limit := Body{Max: 10, Buffer: 4}
	for _, c := range []struct {
		name     string
		body     Body
		sent     string
		length   int64
		want     string
		read     string // what a backend reads
		err      error
		rewindes bool
	}{
		{"none", limit, "", 0, "passed", "", nil, false},
		{"small", limit, "abc", 3, "passed", "abc", nil, true},
		{"as large as the buffer", limit, "abcd", 4, "passed", "abcd", nil, true},
		{"larger", limit, "abcde", 5, "passed", "abcde", nil, false},
		{"as large as the limit", limit, "0123456789", 10, "passed", "0123456789", nil, false},
		{"too large", limit, "0123456789a", 11, "body-too-large", "", nil, false},
		{"too large, by far", limit, "", 1 << 62, "body-too-large", "", nil, false},
		{"chunked", limit, "abc", exchange.Unknown, "passed", "abc", nil, false},
		{"chunked, as large as the limit", limit, "0123456789", exchange.Unknown, "passed", "0123456789", nil, false},
		{"chunked, too large", limit, "0123456789ab", exchange.Unknown, "passed", "0123456789", ErrBodyTooLarge, false},
		{"no limit", Body{Buffer: 4}, "0123456789ab", exchange.Unknown, "passed", "0123456789ab", nil, false},
		{"less than said", limit, "ab", 3, "body-broken", "", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newExchange(t, "POST", "http://a.example/")
			x.Request.Length, x.Request.Body = c.length, iotest.HalfReader(strings.NewReader(c.sent))
			p := compile(t, Config{Body: c.body}, Env{})
			diff(t, "outcome", outcome(x, p.Admit(x)), c.want)
			if x.Response != nil {
				diff(t, "status", x.Response.Status, map[string]int{ReasonBodyTooLarge: 413, ReasonBodyBroken: 400}[c.want])
				return
			}
			for round := range 2 {
				b, err := io.ReadAll(x.Request.Body)
				diff(t, "body", string(b), c.read)
				if !errors.Is(err, c.err) {
					t.Errorf("error %v, want %v", err, c.err)
				}
				again, ok := x.Request.Body.(*bytes.Reader)
				if ok != c.rewindes {
					t.Errorf("round %d: the body can be rewound: %v, want %v", round, ok, c.rewindes)
				}
				if !ok {
					break
				}
				if _, err := again.Seek(0, io.SeekStart); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestBodyTooSlow(t *testing.T) {
	x := newExchange(t, "POST", "http://a.example/")
	x.Request.Length, x.Request.Body = 3, iotest.ErrReader(fmt.Errorf("read tcp: %w", os.ErrDeadlineExceeded))
	p := compile(t, Config{Body: Body{Buffer: 10}}, Env{})
	diff(t, "outcome", outcome(x, p.Admit(x)), ReasonBodyTimeout)
	diff(t, "status", x.Response.Status, 408)
}

// TestCountedBody reads in pieces of all sizes: no byte beyond the limit gets out, and the error stays.
func TestCountedBody(t *testing.T) {
	for size := 1; size < 15; size++ {
		b := &countedBody{Reader: strings.NewReader("0123456789abcdef"), left: 10}
		var got []byte
		var err error
		for p := make([]byte, size); err == nil; {
			var n int
			n, err = b.Read(p)
			got = append(got, p[:n]...)
		}
		if _, again := b.Read(make([]byte, 1)); string(got) != "0123456789" || err != ErrBodyTooLarge || again != ErrBodyTooLarge {
			t.Errorf("in pieces of %d: %q, %v, and then %v", size, got, err, again)
		}
	}
}
