package upstream_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/upstream"
)

func addrOf(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// client returns a Client that is closed at the end and must have nothing open then.
func client(t testing.TB, cfg upstream.Config) *upstream.Client {
	t.Helper()
	c := upstream.New(cfg)
	t.Cleanup(func() {
		c.Close()
		for range 200 { // connections are closed by those who use them
			if c.Stats.Active.Load() == 0 && c.Stats.Idle.Load() == 0 {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Errorf("after Close: %d active, %d idle connections", c.Stats.Active.Load(), c.Stats.Idle.Load())
	})
	return c
}

// ask makes the Exchange for a request.
func ask(t testing.TB, method, path string, body io.Reader, length int64) *exchange.Exchange {
	return &exchange.Exchange{
		Context: t.Context(),
		Request: exchange.Request{
			Method: method, Path: path, RawHost: "app.example", Protocol: exchange.HTTP11,
			Body: body, Length: length, Header: exchange.Header{{Name: "X-One", Value: "1"}},
		},
	}
}

// read returns the whole body.
func read(t testing.TB, resp *exchange.Response) string {
	t.Helper()
	if resp.Body == nil {
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the body: %v", err)
	}
	return string(b)
}

func TestSmoke(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Saw", r.Method+" "+r.URL.String()+" "+r.Host+" "+r.Header.Get("X-One"))
		w.Write(b)
		if r.URL.Path == "/big" {
			io.WriteString(w, strings.Repeat("x", 1<<20))
		}
	}))
	defer s.Close()
	c := client(t, upstream.Config{})
	to := upstream.Target{Addr: addrOf(s.Listener.Addr())}
	for _, x := range []*exchange.Exchange{
		ask(t, "GET", "/a", nil, 0),
		ask(t, "POST", "/b", bytes.NewReader([]byte("hello")), 5),
		ask(t, "POST", "/c", strings.NewReader("stream"), -1),
		ask(t, "GET", "/big", nil, 0),
		ask(t, "HEAD", "/a", nil, 0),
	} {
		resp, err := c.Do(x, to)
		if err != nil {
			t.Fatal(err)
		}
		body := read(t, resp)
		t.Log(resp.Status, resp.Length, resp.Header.Get("X-Saw"), len(body), x.Tries)
	}
	if c.Stats.Dials.Load() != 1 {
		t.Errorf("%d dials, want 1", c.Stats.Dials.Load())
	}
	_ = context.Background
}
