package balance

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestHTTPProber(t *testing.T) {
	seen := make(chan string, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- fmt.Sprint(r.Method, " ", r.RequestURI, " ", r.Host, " close=", r.Close)
		switch r.URL.Path {
		case "/ill":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/moved":
			http.Redirect(w, r, "/healthz", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewUnstartedServer(handler)
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	secure.StartTLS()
	defer plain.Close()
	defer secure.Close()
	addr := func(s *httptest.Server) netip.AddrPort { return netip.MustParseAddrPort(s.Listener.Addr().String()) }
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := netip.MustParseAddrPort(gone.Addr().String())
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	only204, _ := ParseCodes("204")
	probe := HTTPProber((&net.Dialer{}).DialContext)
	for _, c := range []struct {
		name  string
		to    netip.AddrPort
		check Check
		want  string // of the error; empty: none
		seen  string
	}{
		{"get", addr(plain), Check{Path: "/healthz?full=1&x=%2f"}, "", "GET /healthz?full=1&x=%2f " + addr(plain).String() + " close=true"},
		{"head and host", addr(plain), Check{Path: "/", Method: "HEAD", Host: "a.example"}, "", "HEAD / a.example close=true"},
		{"over TLS", addr(secure), Check{Path: "/", TLS: true}, "", "GET / " + addr(secure).String() + " close=true"},
		{"plain text to TLS", addr(secure), Check{Path: "/"}, "status 400", ""},
		{"503", addr(plain), Check{Path: "/ill"}, "GET /ill: status 503, want 200-399", ""},
		{"a redirect is an answer", addr(plain), Check{Path: "/moved"}, "", "GET /moved " + addr(plain).String() + " close=true"},
		{"not the status wanted", addr(plain), Check{Path: "/", Expected: only204}, "status 200, want 204", ""},
		{"no answer", addr(plain), Check{Path: "/slow", Timeout: 50 * time.Millisecond}, "deadline exceeded", ""},
		{"connect", addr(plain), Check{}, "", ""},
		{"nobody there", closed, Check{}, "refused", ""},
		{"nobody there", closed, Check{Path: "/"}, "refused", ""},
	} {
		select {
		case <-seen:
		default:
		}
		check := c.check.filled()
		ctx, cancel := context.WithTimeout(t.Context(), check.Timeout)
		err := probe(ctx, c.to, check)
		cancel()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if c.seen == "" {
			continue
		}
		if got := <-seen; got != c.seen {
			t.Errorf("%s: the endpoint saw %q, want %q", c.name, got, c.seen)
		}
	}
}
