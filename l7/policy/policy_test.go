package policy

import (
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/route"
)

// newExchange is a request as an engine would hand it in: url is scheme://host[:port]/path[?query], and fields are
// names and values in turn.
func newExchange(t testing.TB, method, url string, fields ...string) *exchange.Exchange {
	t.Helper()
	scheme, rest, ok := strings.Cut(url, "://")
	host, uri, found := strings.Cut(rest, "/")
	if !ok || !found {
		t.Fatalf("the URL %q has no path", url)
	}
	path, query, hasQuery := strings.Cut("/"+uri, "?")
	canonical, err := route.Canonical(path, route.Options{})
	if err != nil {
		t.Fatalf("the path %q: %v", path, err)
	}
	name, port, err := route.ParseHost(host)
	if err != nil {
		t.Fatalf("the host %q: %v", host, err)
	}
	x := &exchange.Exchange{Context: t.Context(), Request: exchange.Request{
		Method: method, Protocol: exchange.HTTP11, Secure: scheme == "https", Host: name, Port: port, RawHost: host,
		Path: canonical, RawPath: path, Query: query, HasQuery: hasQuery,
		Client: netip.MustParseAddrPort("198.51.100.1:40000"), Peer: netip.MustParseAddrPort("198.51.100.1:40000"),
		Local: netip.MustParseAddrPort("172.18.0.11:80"), ID: "0123456789abcdef",
	}}
	for i := 0; i < len(fields); i += 2 {
		x.Request.Header.Add(fields[i], fields[i+1])
	}
	return x
}

// env is an Env in which everything works.
func env(t testing.TB) Env {
	t.Helper()
	s := NewShared(SharedConfig{})
	t.Cleanup(s.Close)
	return Env{
		Rule: "default/web/shop.example/", Shared: s,
		Canonical: func(p string) (string, error) { return route.Canonical(p, route.Options{}) },
		ErrorPage: func(*exchange.Exchange, exchange.Header) (*exchange.Response, error) { return nil, nil },
	}
}

func compile(t testing.TB, c Config, e Env) *Pipeline {
	t.Helper()
	p, err := Compile(c, e)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// backend is an answer of a backend.
func backend(status int, body string, fields ...string) *exchange.Response {
	r := &exchange.Response{Status: status, Length: int64(len(body))}
	if body != "" {
		r.Body = io.NopCloser(strings.NewReader(body))
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	return r
}

// readBody reads and closes the answer's body.
func readBody(t testing.TB, x *exchange.Exchange) string {
	t.Helper()
	if x.Response.Body == nil {
		return ""
	}
	b, err := io.ReadAll(x.Response.Body)
	if err != nil {
		t.Fatalf("read the body: %v", err)
	}
	if err := x.Response.Body.Close(); err != nil {
		t.Fatalf("close the body: %v", err)
	}
	return string(b)
}

// outcome is what the stages have said to x: nothing, or status and reason.
func outcome(x *exchange.Exchange, admitted bool) string {
	switch {
	case admitted && x.Response == nil:
		return "passed"
	case admitted:
		return "passed and answered"
	case x.Response == nil:
		return "stopped without an answer"
	}
	return strings.TrimSpace(x.Response.Reason + " " + x.Response.Header.Get("Location"))
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func diff(t testing.TB, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("%s (-got +want):\n%s", what, d)
	}
}
