package policy

import (
	"io"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

func forwarder(t testing.TB, c Forwarding) *Forwarder {
	t.Helper()
	f, err := NewForwarder(c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// lines is a header as text, one field a line.
func lines(h exchange.Header) string {
	var b strings.Builder
	for _, f := range h {
		b.WriteString(f.Name + ": " + f.Value + "\n")
	}
	return b.String()
}

const id32 = "0123456789abcdef0123456789abcdef"

func TestForward(t *testing.T) {
	proxy := Forwarding{Trust: prefixes("198.51.100.0/24")}
	for _, c := range []struct {
		name   string
		c      Forwarding
		nginx  bool
		url    string
		fields []string
		want   string
	}{
		{"a client", Forwarding{}, false, "http://a.example/", []string{"Accept", "*/*"}, `
Accept: */*
X-Request-ID: ` + id32 + `
X-Real-IP: 198.51.100.1
X-Forwarded-For: 198.51.100.1
X-Forwarded-Host: a.example
X-Forwarded-Port: 80
X-Forwarded-Proto: http
`},
		{"a client that lies", Forwarding{}, false, "https://a.example:8443/", []string{
			"X-Forwarded-For", "1.1.1.1", "x-forwarded-for", "1.1.1.1", "X_Forwarded_For", "1.1.1.1", "X-Forwarded_Proto", "http",
			"X-Forwarded-Prefix", "/x", "X-Forwarded-Anything", "x", "Forwarded", "for=1.1.1.1", "FORWARDED", "for=1.1.1.1",
			"X-Real-IP", "1.1.1.1", "X_REAL_IP", "1.1.1.1", "X-Scheme", "https", "X-Original-URI", "/x", "X-Original-Forwarded-For", "1",
			"Ssl-Client-Verify", "SUCCESS", "ssl_client_cert", "x", "Proxy", "http://evil.example", "X-Request-Id-2", "kept", "X-Forward", "kept",
		}, `
X-Request-Id-2: kept
X-Forward: kept
X-Request-ID: ` + id32 + `
X-Real-IP: 198.51.100.1
X-Forwarded-For: 198.51.100.1
X-Forwarded-Host: a.example:8443
X-Forwarded-Port: 8443
X-Forwarded-Proto: https
`},
		{"nginx", Forwarding{}, true, "http://a.example/", []string{"X-Forwarded-For", "1.1.1.1", "X-Forwarded-Host", "b"}, `
X-Request-ID: ` + id32 + `
X-Real-IP: 198.51.100.1
X-Forwarded-For: 198.51.100.1
X-Forwarded-Host: a.example
X-Forwarded-Port: 80
X-Forwarded-Proto: http
X-Forwarded-Scheme: http
X-Scheme: http
X-Original-Forwarded-For: 1.1.1.1
X-Original-Forwarded-Host: b
`},
		{"a trusted proxy", proxy, false, "http://a.example/", []string{
			"X-Forwarded-For", "6.6.6.6, 203.0.113.9", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "shop.example", "X-Forwarded-Port", "8443",
			"X-Forwarded-Prefix", "/p", "X_Forwarded_Prefix", "/q", "Ssl-Client-Verify", "SUCCESS", "ssl_client-verify", "x", "Proxy", "x",
		}, `
X-Forwarded-Prefix: /p
Ssl-Client-Verify: SUCCESS
X-Request-ID: ` + id32 + `
X-Real-IP: 203.0.113.9
X-Forwarded-For: 203.0.113.9
X-Forwarded-Host: shop.example
X-Forwarded-Port: 8443
X-Forwarded-Proto: https
`},
		{"the whole way", Forwarding{Trust: proxy.Trust, Append: true}, false, "http://a.example/",
			[]string{"X-Forwarded-For", "6.6.6.6", "X-Forwarded-For", "203.0.113.9"}, `
X-Request-ID: ` + id32 + `
X-Real-IP: 203.0.113.9
X-Forwarded-For: 6.6.6.6, 203.0.113.9, 198.51.100.1
X-Forwarded-Host: a.example
X-Forwarded-Port: 80
X-Forwarded-Proto: http
`},
		{"the whole way of a liar", Forwarding{Append: true}, false, "http://a.example/", []string{"X-Forwarded-For", "6.6.6.6"}, `
X-Request-ID: ` + id32 + `
X-Real-IP: 198.51.100.1
X-Forwarded-For: 198.51.100.1
X-Forwarded-Host: a.example
X-Forwarded-Port: 80
X-Forwarded-Proto: http
`},
		{"RFC 7239", Forwarding{Trust: proxy.Trust, Forwarded: true}, false, "http://a.example/",
			[]string{"Forwarded", `for=6.6.6.6, for="[2001:db8::9]:4711";proto=https;host=shop.example`}, `
X-Request-ID: ` + id32 + `
X-Real-IP: 2001:db8::9
X-Forwarded-For: 2001:db8::9
X-Forwarded-Host: a.example
X-Forwarded-Port: 443
X-Forwarded-Proto: https
Forwarded: for="[2001:db8::9]";host=a.example;proto=https
`},
		{"another field", Forwarding{Trust: proxy.Trust, Source: "CF-Connecting-IP"}, false, "http://a.example/",
			[]string{"CF-Connecting-IP", "203.0.113.9", "X-Forwarded-For", "6.6.6.6"}, `
CF-Connecting-IP: 203.0.113.9
X-Request-ID: ` + id32 + `
X-Real-IP: 203.0.113.9
X-Forwarded-For: 203.0.113.9
X-Forwarded-Host: a.example
X-Forwarded-Port: 80
X-Forwarded-Proto: http
`},
		{"another field, forged", Forwarding{Source: "CF-Connecting-IP"}, false, "http://a.example/", []string{"cf_connecting_ip", "1.1.1.1"}, `
X-Request-ID: ` + id32 + `
X-Real-IP: 198.51.100.1
X-Forwarded-For: 198.51.100.1
X-Forwarded-Host: a.example
X-Forwarded-Port: 80
X-Forwarded-Proto: http
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newExchange(t, "GET", c.url, append(c.fields, "X-Request-ID", id32)...)
			f := forwarder(t, c.c)
			f.Forward(x, f.Identify(x), c.nginx)
			diff(t, "header", lines(x.Request.Header), strings.TrimPrefix(c.want, "\n"))
		})
	}
}

func TestResolve(t *testing.T) {
	trust := prefixes("10.0.0.0/8", "2001:db8:1::/48")
	for _, c := range []struct {
		name, peer string
		xff        []string
		want       string
	}{
		{"not trusted", "203.0.113.1:5", []string{"1.1.1.1"}, "203.0.113.1:5"},
		{"trusted, silent", "10.0.0.1:5", nil, "10.0.0.1:5"},
		{"one hop", "10.0.0.1:5", []string{"203.0.113.9"}, "203.0.113.9:0"},
		{"the rightmost that is not trusted", "10.0.0.1:5", []string{"1.1.1.1, 203.0.113.9, 10.2.2.2"}, "203.0.113.9:0"},
		{"several fields are one list", "10.0.0.1:5", []string{"1.1.1.1", "203.0.113.9", " 10.2.2.2 ,"}, "203.0.113.9:0"},
		{"all trusted", "10.0.0.1:5", []string{"10.3.3.3, 10.2.2.2"}, "10.3.3.3:0"},
		{"nonsense ends the walk", "10.0.0.1:5", []string{"1.1.1.1, unknown, 10.2.2.2"}, "10.2.2.2:0"},
		{"nonsense at once", "10.0.0.1:5", []string{"1.1.1.1, <script>"}, "10.0.0.1:5"},
		{"with a port", "10.0.0.1:5", []string{"203.0.113.9:4711"}, "203.0.113.9:4711"},
		{"IPv6", "[2001:db8:1::1]:5", []string{"2001:db8::9"}, "[2001:db8::9]:0"},
		{"IPv6 in brackets", "10.0.0.1:5", []string{"[2001:db8::9]"}, "[2001:db8::9]:0"},
		{"IPv6 with a port", "10.0.0.1:5", []string{"[2001:db8::9]:99"}, "[2001:db8::9]:99"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:5", []string{"::ffff:203.0.113.9"}, "203.0.113.9:0"},
		{"a zone", "10.0.0.1:5", []string{"fe80::1%eth0"}, "[fe80::1]:0"},
		{"IPv4 in brackets is none", "10.0.0.1:5", []string{"[203.0.113.9]"}, "10.0.0.1:5"},
		{"very long", "10.0.0.1:5", []string{strings.Repeat("10.9.9.9,", 1000) + "10.1.1.1"}, "10.9.9.9:0"},
	} {
		var h exchange.Header
		for _, v := range c.xff {
			h.Add("x-forwarded-for", v)
		}
		id := forwarder(t, Forwarding{Trust: trust}).Resolve(netip.MustParseAddrPort(c.peer), h)
		diff(t, c.name, id.Client.String(), c.want)
	}
}

// TestResolveScheme makes sure that scheme and port come from the proxy that the client spoke to, not from what the client
// put in front.
func TestResolveScheme(t *testing.T) {
	f := forwarder(t, Forwarding{Trust: prefixes("10.0.0.0/8")})
	for _, c := range []struct {
		xff, proto, host, port, want string
	}{
		{"203.0.113.9", "https", "a.example", "8443", "https a.example 8443"},
		{"203.0.113.9", "HTTPS", "a.example, b.example", "", "https a.example "},
		{"203.0.113.9, 10.2.2.2", "https, http", "", "443, 80", "https  443"},
		{"1.1.1.1, 203.0.113.9", "http, https", "", "", "https  "},
		{"203.0.113.9, 10.2.2.2", "https", "", "", "https  "},
		{"", "https", "", "", "https  "},
		{"203.0.113.9", "wss", "", "", "https  "},
		{"203.0.113.9", "gopher", "a b", "x", "  "},
		{"203.0.113.9", "", "user@a.example", "99999999", "  "},
	} {
		var h exchange.Header
		set(&h, "X-Forwarded-For", c.xff)
		set(&h, "X-Forwarded-Proto", c.proto)
		set(&h, "X-Forwarded-Host", c.host)
		set(&h, "X-Forwarded-Port", c.port)
		id := f.Resolve(netip.MustParseAddrPort("10.0.0.1:5"), h)
		diff(t, lines(h), id.Scheme+" "+id.Host+" "+id.Port, c.want)
		none := f.Resolve(netip.MustParseAddrPort("203.0.113.1:5"), h)
		diff(t, "untrusted: "+lines(h), none.Scheme+none.Host+none.Port, "")
	}
}

func TestIdentifyAfterProxyProtocol(t *testing.T) {
	x := newExchange(t, "GET", "http://a.example/", "X-Forwarded-For", "1.1.1.1")
	x.Request.Peer = netip.MustParseAddrPort("10.0.0.1:5") // the balancer; PROXY protocol named the client
	f := forwarder(t, Forwarding{Trust: prefixes("10.0.0.0/8")})
	id := f.Identify(x)
	if id.Trusted {
		t.Error("the word of a client behind PROXY protocol counts as the balancer's")
	}
	diff(t, "client", x.Request.Client.String(), "198.51.100.1:40000")
}

func TestRequestID(t *testing.T) {
	made := regexp.MustCompile(`^[0-9a-f]{32}$`)
	for _, c := range []struct {
		name   string
		fields []string
		want   string // empty: a new one
	}{
		{"kept", []string{"x-request-id", "Root=1-67891233-abcdef"}, "Root=1-67891233-abcdef"},
		{"none", nil, ""},
		{"empty", []string{"X-Request-ID", ""}, ""},
		{"two", []string{"X-Request-ID", "a", "X-Request-ID", "b"}, ""},
		{"a space", []string{"X-Request-ID", "a b"}, ""},
		{"markup", []string{"X-Request-ID", "<b>"}, ""},
		{"a quote", []string{"X-Request-ID", `a"b`}, ""},
		{"long", []string{"X-Request-ID", strings.Repeat("a", 129)}, ""},
		{"with an underscore", []string{"X_Request_ID", "a"}, ""},
	} {
		x := newExchange(t, "GET", "http://a.example/", c.fields...)
		f := forwarder(t, Forwarding{})
		f.Forward(x, f.Identify(x), false)
		got := x.Request.ID
		if c.want != "" && got != c.want || c.want == "" && !made.MatchString(got) {
			t.Errorf("%s: ID %q, want %q", c.name, got, c.want)
		}
		diff(t, c.name, lines(x.Request.Header[:1]), "X-Request-ID: "+got+"\n")
		if x.Request.Header.Has("X_Request_ID") {
			t.Error("a second ID in another spelling is passed on")
		}
	}
	if a, b := randomHex(16), randomHex(16); a == b {
		t.Errorf("two IDs are the same: %s", a)
	}
}

// TestForwardTrailer is CVE-2026-88004: what is forged may come after the body as well.
func TestForwardTrailer(t *testing.T) {
	for _, trust := range []string{"192.0.2.0/24", "198.51.100.0/24"} {
		x := newExchange(t, "POST", "http://a.example/")
		x.Request.Trailer = &exchange.Header{}
		x.Request.Length = exchange.Unknown
		x.Request.Body = &trailing{Reader: strings.NewReader("body"), trailer: x.Request.Trailer, fields: exchange.Header{
			{Name: "X-Forwarded-For", Value: "1.1.1.1"}, {Name: "x_real_ip", Value: "1.1.1.1"}, {Name: "Authorization", Value: "x"},
			{Name: "Content-Length", Value: "3"}, {Name: "transfer_encoding", Value: "chunked"}, {Name: "Cookie", Value: "a=b"}, {Name: "Host", Value: "b"},
			{Name: "X-Auth-User", Value: "root"}, {Name: "X-Checksum", Value: "abc"}, {Name: "grpc-status", Value: "0"},
		}}
		f := forwarder(t, Forwarding{Trust: prefixes(trust)})
		f.Forward(x, f.Identify(x), false)
		b, err := io.ReadAll(x.Request.Body)
		diff(t, "body", string(b), "body")
		diff(t, "error", err, nil)
		diff(t, "trailer", lines(*x.Request.Trailer), "X-Checksum: abc\ngrpc-status: 0\n")
	}
}

// trailing fills in the trailer when the body ends.
type trailing struct {
	io.Reader
	trailer *exchange.Header
	fields  exchange.Header
}

func (r *trailing) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		*r.trailer = r.fields
	}
	return n, err
}

func TestCleanTrailer(t *testing.T) {
	h := exchange.Header{{Name: "Set-Cookie", Value: "a"}, {Name: "Digest", Value: "b"}}
	CleanTrailer(&h)
	diff(t, "trailer", lines(h), "Digest: b\n")
}

func TestTrace(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	made := regexp.MustCompile(`^traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-0([01])\n$`)
	for _, c := range []struct {
		name   string
		fields []string
		want   string // empty: none, or a new one
	}{
		{"passed on", []string{"Traceparent", good, "tracestate", "a=b"}, "Traceparent: " + good + "\ntracestate: a=b\n"},
		{"a later version", []string{"traceparent", "cc" + good[2:] + "-more"}, "traceparent: cc" + good[2:] + "-more\n"},
		{"none", nil, ""},
		{"state alone", []string{"tracestate", "a=b"}, ""},
		{"two", []string{"traceparent", good, "traceparent", good}, ""},
		{"upper case", []string{"traceparent", strings.ToUpper(good)}, ""},
		{"no trace", []string{"traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01"}, ""},
		{"no parent", []string{"traceparent", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"}, ""},
		{"version ff", []string{"traceparent", "ff" + good[2:]}, ""},
		{"too long", []string{"traceparent", good + "-x"}, ""},
		{"short", []string{"traceparent", good[:54]}, ""},
	} {
		for _, sample := range []float64{0, 1} {
			x := newExchange(t, "GET", "http://a.example/", c.fields...)
			forwarder(t, Forwarding{Sample: sample}).trace(&x.Request.Header)
			got := lines(x.Request.Header)
			m := made.FindStringSubmatch(got)
			if c.want == "" && sample == 1 {
				if m == nil || m[1] != "1" {
					t.Errorf("%s: %q, want a new traceparent that is sampled", c.name, got)
				}
				continue
			}
			diff(t, c.name, got, c.want)
		}
	}
}

func TestNewForwarderRefuses(t *testing.T) {
	for _, c := range []Forwarding{{Source: "a b"}, {Source: "Host"}, {Trust: []netip.Prefix{{}}}, {Sample: -1}, {Sample: 2}} {
		if f, err := NewForwarder(c); err == nil || f != nil {
			t.Errorf("%+v: %v, %v; want an error", c, f, err)
		}
	}
}

func TestParseForwarded(t *testing.T) {
	for _, c := range []struct {
		value string
		want  []hop // nil: malformed, or nothing
		bad   bool
	}{
		{`for=192.0.2.1`, []hop{{For: "192.0.2.1"}}, false},
		{`For="[2001:db8::1]:80"; proto=HTTPS;by=_x;host="a:80"`, []hop{{For: "[2001:db8::1]:80", Proto: "HTTPS", By: "_x", Host: "a:80"}}, false},
		{`for=a, for=b;;, ,for="\"c\\"`, []hop{{For: "a"}, {For: "b"}, {For: `"c\`}}, false},
		{`for=a;secret="x;y,z"`, []hop{{For: "a"}}, false},
		{``, nil, false},
		{`for`, nil, true},
		{`for=`, nil, true},
		{`for =a`, nil, true},
		{`for=a;for=b`, nil, true},
		{`for="a`, nil, true},
		{`for="a\`, nil, true},
		{`for=a b=c`, nil, true},
		{`for=[::1]`, nil, true},
		{"for=\"a\x00\"", nil, true},
	} {
		got, err := parseForwarded(c.value)
		if (err != nil) != c.bad {
			t.Errorf("%q: error %v, want one: %v", c.value, err, c.bad)
		}
		diff(t, c.value, got, c.want)
	}
}

func FuzzForwarded(f *testing.F) {
	for _, s := range []string{`for=192.0.2.1`, `for="[::1]:80";host="a\"b"`, `for=a,,;;by=b`, `a="`, `=`, `for=_x;proto=http;ext=1`} {
		f.Add(s, s)
	}
	trust := prefixes("10.0.0.0/8")
	f.Fuzz(func(t *testing.T, forwarded, xff string) {
		hops, err := parseForwarded(forwarded)
		if err != nil && hops != nil {
			t.Errorf("%q: both %v and %v", forwarded, hops, err)
		}
		for _, h := range hops {
			if strings.ContainsAny(h.For+h.By+h.Host+h.Proto, "\r\n\x00") {
				t.Errorf("%q: control bytes in %+v", forwarded, h)
			}
			a, _ := netip.ParseAddr(h.For)
			again := forwardedValue(a.WithZone(""), h.Host, "http")
			if back, err := parseForwarded(again); err != nil || len(back) != 1 || back[0].Host != h.Host {
				t.Errorf("host %q is written %q, which is read as %+v, %v", h.Host, again, back, err)
			}
		}
		fw, _ := NewForwarder(Forwarding{Trust: trust, Forwarded: true})
		x := newExchange(t, "GET", "http://a.example/", "Forwarded", forwarded, "X-Forwarded-For", xff, "X-Forwarded-Host", xff, "X-Request-ID", forwarded)
		x.Request.Client = netip.MustParseAddrPort("10.0.0.1:1")
		fw.Forward(x, fw.Identify(x), false)
		if strings.ContainsAny(x.Request.RawHost+x.Request.ID, "\r\n\x00 ") || !x.Request.Client.IsValid() {
			t.Errorf("%q, %q: host %q, ID %q, client %s", forwarded, xff, x.Request.RawHost, x.Request.ID, x.Request.Client)
		}
	})
}

func BenchmarkForward(b *testing.B) {
	f := forwarder(b, Forwarding{})
	x := newExchange(b, "GET", "http://shop.example/cart", "User-Agent", "curl/8", "Accept", "*/*", "Accept-Encoding", "gzip",
		"X-Forwarded-For", "1.1.1.1", "Cookie", "a=b", "Referer", "http://shop.example/")
	fresh := x.Request.Header.Clone()
	header := make(exchange.Header, 0, 24)
	b.ReportAllocs()
	for b.Loop() {
		x.Request.Header = append(header[:0], fresh...)
		f.Forward(x, f.Identify(x), false)
	}
}
