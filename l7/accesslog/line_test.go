package accesslog

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

func at() time.Time {
	return time.Date(2026, 3, 4, 5, 6, 7, 89_500_000, time.FixedZone("", 2*60*60))
}

// full is a request of which everything is known.
func full() (*exchange.Exchange, Done) {
	x := &exchange.Exchange{
		Request: exchange.Request{
			Method: "POST", Protocol: exchange.HTTP2, Secure: true, Host: "shop.example.com", Port: "8443",
			RawHost: "Shop.Example.com:8443", Path: "/a b", RawPath: "/a%20b", Query: "q=1&Empty=", HasQuery: true,
			Client: netip.MustParseAddrPort("[::ffff:198.51.100.7]:4711"), Peer: netip.MustParseAddrPort("[2001:db8::1]:99"),
			Local: netip.MustParseAddrPort("172.18.0.11:443"), ID: "0123abcd",
			TLS: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, ServerName: "shop.example.com", DidResume: true},
			Header: exchange.Header{
				{Name: "user-agent", Value: `say "hi" \ü`}, {Name: "referer", Value: "https://a/"}, {Name: "cookie", Value: "a=1; Session=xyz; b"},
				{Name: "traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, {Name: "x-empty", Value: ""},
			},
		},
		Response: &exchange.Response{Status: 200, Header: exchange.Header{{Name: "Content-Type", Value: "text/html"}}},
		Target:   &exchange.Target{Namespace: "shop", Ingress: "web", Service: "front", Port: "http", Path: "/a"},
		Tries: []exchange.Try{
			{Endpoint: netip.MustParseAddrPort("10.244.1.4:8080"), Connect: 2 * time.Millisecond, Total: 3 * time.Millisecond, Err: errors.New("reset")},
			{Endpoint: netip.MustParseAddrPort("[fd00::5]:8080"), Status: 200, Header: 10 * time.Millisecond, Total: 1234567 * time.Microsecond},
		},
		User: "alice",
	}
	return x, Done{Status: 200, BytesIn: 10, BytesOut: 2000, HeadIn: 300, HeadOut: 150, Duration: 1250 * time.Millisecond, Now: at()}
}

// logged returns what is logged of one request.
func logged(t *testing.T, c Config, x *exchange.Exchange, d Done) string {
	t.Helper()
	var out bytes.Buffer
	l, err := New(&out, c)
	if err != nil {
		t.Fatal(err)
	}
	l.Write(x, d)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestJSON(t *testing.T) {
	x, d := full()
	got := logged(t, Config{}, x, d)
	want := `{"ts":"2026-03-04T03:06:07.089Z","client":"198.51.100.7","method":"POST","host":"shop.example.com","path":"/a%20b","query":"q=1&Empty=",` +
		`"proto":"HTTP/2.0","status":200,"bytes_in":10,"bytes_out":2000,"duration":1.250000,"ingress":"shop/web","service":"shop/front:http",` +
		`"upstream_addr":["10.244.1.4:8080","[fd00::5]:8080"],"upstream_status":[0,200],"upstream_time":[0.003000,1.234567],"tries":2,` +
		`"user":"alice","request_id":"0123abcd","trace_id":"0af7651916cd43dd8448eb211c80319c",` +
		`"tls_version":"TLSv1.3","tls_sni":"shop.example.com","tls_cipher":"TLS_AES_128_GCM_SHA256","user_agent":"say \"hi\" \\ü","referer":"https://a/"}` + "\n"
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("-got +want:\n%s", d)
	}
}

func TestJSONLeavesOutWhatIsEmpty(t *testing.T) {
	got := logged(t, Config{}, &exchange.Exchange{}, Done{Status: 400, Reason: "bad-line", Now: at()})
	want := `{"ts":"2026-03-04T03:06:07.089Z","client":"","method":"","host":"","path":"","proto":"HTTP/1.0","status":400,` +
		`"bytes_in":0,"bytes_out":0,"duration":0.000000,"reason":"bad-line"}` + "\n"
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("-got +want:\n%s", d)
	}
}

// TestJSONHostile looks whether a line is one line and one object, whatever clients send.
func TestJSONHostile(t *testing.T) {
	for _, evil := range []string{
		"a\nb\r\n", "\x00\x1f\x7f", `","status":200,"x":"`, "\xff\xfe", "\xe2\x28", "\u2028 \u202e", `\`, `\u0041`,
		strings.Repeat("ü", 5000), strings.Repeat("\x01", 5000), "\xf0\x9f\x98",
	} {
		x, d := full()
		r := &x.Request
		r.Method, r.Host, r.RawPath, r.Query, r.ID, x.User = evil, evil, evil, evil, evil, evil
		r.TLS.ServerName = evil
		r.Header = exchange.Header{{Name: "User-Agent", Value: evil}, {Name: "Referer", Value: evil}}
		x.Target = &exchange.Target{Namespace: evil, Ingress: evil, Service: evil, Port: evil}
		d.Reason = evil
		got := logged(t, Config{}, x, d)
		if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
			t.Errorf("%q makes %d lines", evil, strings.Count(got, "\n"))
		}
		if len(got) > chunk {
			t.Errorf("%q makes a line of %d bytes", evil[:10], len(got))
		}
		dec := json.NewDecoder(strings.NewReader(got))
		dec.UseNumber()
		fields := 0
		object := map[string]any{}
		if err := dec.Decode(&object); err != nil {
			t.Errorf("%q: %v in %s", evil, err, got)
		}
		if fields = len(object); fields != 25 {
			t.Errorf("%q: %d fields, want 25", evil, fields)
		}
		whole := strings.ToValidUTF8(evil, "�")
		path := object["path"].(string)
		if len(evil) <= limitPath && strings.Trim(path, "�") != strings.Trim(whole, "�") {
			t.Errorf("path %q is logged as %q", evil, path)
		}
		if len(evil) > limitPath && (!strings.HasSuffix(path, "…") || !strings.HasPrefix(whole, strings.TrimSuffix(path, "…"))) {
			t.Errorf("a long path is logged as %q", path)
		}
	}
}

func TestAborted(t *testing.T) {
	x, d := full()
	d.Aborted = true
	if got := logged(t, Config{}, x, d); !strings.Contains(got, `"status":499,`) {
		t.Errorf("no 499 in %s", got)
	}
	if got := logged(t, Config{Format: "$status"}, x, d); got != "499\n" {
		t.Errorf("logged %q, want 499", got)
	}
}

func TestReasonOfTheResponse(t *testing.T) {
	x := &exchange.Exchange{}
	x.Answer(503, "no-endpoints")
	if got := logged(t, Config{Format: "$reason"}, x, Done{Status: 503}); got != "no-endpoints\n" {
		t.Errorf("logged %q", got)
	}
	if got := logged(t, Config{Format: "$reason"}, x, Done{Status: 503, Reason: "drain"}); got != "drain\n" {
		t.Errorf("logged %q", got)
	}
}

func TestUpstreamInfo(t *testing.T) {
	x, d := full()
	got := logged(t, Config{Format: UpstreamInfo}, x, d)
	want := `198.51.100.7 - alice [04/Mar/2026:05:06:07 +0200] "POST /a%20b?q=1&Empty= HTTP/2.0" 200 2000 "https://a/" ` +
		`"say \x22hi\x22 \x5C\xC3\xBC" 310 1.250 [shop-front-http] [] 10.244.1.4:8080, [fd00::5]:8080 0, 2000 0.003, 1.234 -, 200 0123abcd` + "\n"
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("-got +want:\n%s", d)
	}
	got = logged(t, Config{Format: UpstreamInfo}, &exchange.Exchange{}, Done{Now: at()})
	want = `- - - [04/Mar/2026:05:06:07 +0200] "-" 000 0 "-" "-" 0 0.000 [-] [] - - - - -` + "\n"
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("nothing known (-got +want):\n%s", d)
	}
}

func TestVariables(t *testing.T) {
	x, d := full()
	d.Alternative = &exchange.Target{Namespace: "shop", Service: "next", Port: "80"}
	for _, c := range []struct{ format, text, json string }{
		{"$remote_addr $remote_port $server_addr:$server_port", "198.51.100.7 4711 172.18.0.11:443", ""},
		{"$realip_remote_addr/$realip_remote_port $the_real_ip", "2001:db8::1/99 198.51.100.7", ""},
		{"$time_iso8601 $msec", "2026-03-04T05:06:07+02:00 1772593567.089", ""},
		{"$request_method $uri $request_uri $args $query_string$is_args", "POST /a b /a%20b?q=1&Empty= q=1&Empty= q=1&Empty=?", ""},
		{"$server_protocol $scheme $https $pass_access_scheme", "HTTP/2.0 https on https", ""},
		{"$host $http_host $server_name $best_http_host", "shop.example.com Shop.Example.com:8443 shop.example.com Shop.Example.com:8443", ""},
		{"$bytes_sent $body_bytes_sent $request_length $request_time", "2150 2000 310 1.250", ""},
		{"$upstream_connect_time|$upstream_header_time", "0.002, 0.000|-, 0.010", ""},
		{"$namespace $ingress_name $service_name $service_port $location_path", "shop web front http /a", ""},
		{"$proxy_upstream_name $proxy_alternative_upstream_name", "shop-front-http shop-next-80", ""},
		{"$ssl_protocol $ssl_cipher $ssl_server_name $ssl_session_reused", "TLSv1.3 TLS_AES_128_GCM_SHA256 shop.example.com r", ""},
		{"$ssl_client_s_dn $ssl_client_serial", "- -", " "},
		{"$cookie_session $cookie_A $cookie_b $cookie_c", "xyz 1 - -", "xyz 1  "},
		{"$arg_q $arg_EMPTY $arg_none", "1  -", "1  "},
		{"[$http_x_empty] [$http_x_missing]", "[] [-]", "[] []"},
		{"$sent_http_content_type $sent_http_etag", "text/html -", "text/html "},
		{"$http_user_agent", `say \x22hi\x22 \x5C\xC3\xBC`, `say \"hi\" \\ü`},
		{"$trace_id ${req_id}x${request_id} $reason", "0af7651916cd43dd8448eb211c80319c 0123abcdx0123abcd -", "0af7651916cd43dd8448eb211c80319c 0123abcdx0123abcd "},
		{`{\"s\": $status, 'a': "\\", "\t\d"}`, "{\"s\": 200, 'a': \"\\\", \"\t\\d\"}", ""},
		{"$HOST\n\n", "shop.example.com", ""},
	} {
		if c.json == "" {
			c.json = c.text
		}
		if got := logged(t, Config{Format: c.format}, x, d); got != c.text+"\n" {
			t.Errorf("%s: got %q, want %q", c.format, got, c.text)
		}
		if got := logged(t, Config{Format: c.format, EscapeJSON: true}, x, d); got != c.json+"\n" {
			t.Errorf("%s as JSON: got %q, want %q", c.format, got, c.json)
		}
	}
}

// TestEveryVariable looks whether all that is listed can be used, of a full request and of an empty one.
func TestEveryVariable(t *testing.T) {
	x, d := full()
	d.Alternative = x.Target
	for _, v := range Variables() {
		if strings.HasSuffix(v, "_") {
			v += "a"
		}
		if got := logged(t, Config{Format: "$" + v}, x, d); got == "\n" || strings.Count(got, "\n") != 1 {
			t.Errorf("$%s of a full request: %q", v, got)
		}
		if got := logged(t, Config{Format: "$" + v}, &exchange.Exchange{}, Done{}); strings.Count(got, "\n") != 1 {
			t.Errorf("$%s of an empty request: %q", v, got)
		}
	}
}

func TestEscapes(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	text := string(appendDefault(nil, string(all)))
	for _, c := range text {
		if c < ' ' || c > '~' || c == '"' {
			t.Errorf("%q is left in the default escape", c)
		}
	}
	for _, c := range []struct{ in, text, json string }{
		{"plain ~!", "plain ~!", "plain ~!"},
		{"\x00\x08\x09\x0a\x0c\x0d\x1b\x7f", `\x00\x08\x09\x0A\x0C\x0D\x1B\x7F`, `\u0000\b\t\n\f\r\u001b` + "\x7f"},
		{`"\/`, `\x22\x5C/`, `\"\\/`},
		{"é\xff", `\xC3\xA9\xFF`, "é�"},
	} {
		if got := string(appendDefault(nil, c.in)); got != c.text {
			t.Errorf("%q: got %s, want %s", c.in, got, c.text)
		}
		if got := string(appendJSON(nil, c.in)); got != c.json {
			t.Errorf("%q as JSON: got %s, want %s", c.in, got, c.json)
		}
	}
}

func TestLongValues(t *testing.T) {
	x, d := full()
	x.Request.RawPath, x.Request.HasQuery = "/"+strings.Repeat("a", 2*valueLimit), false
	if got, want := logged(t, Config{Format: "$request_uri|"}, x, d), x.Request.RawPath[:valueLimit]+"...|\n"; got != want {
		t.Errorf("a value of %d bytes makes a line of %d, want %d", len(x.Request.RawPath), len(got), len(want))
	}
	x.Request.RawPath = strings.Repeat("\x01", 2*valueLimit)
	{
		format := strings.Repeat("$request_uri ", 200)
		if got := logged(t, Config{Format: format, EscapeJSON: true}, x, d); len(got) > chunk || len(got) < textLimit {
			t.Errorf("a line of %d bytes", len(got))
		}
	}
	for range 100 {
		x.Tries = append(x.Tries, x.Tries[0])
	}
	if got := logged(t, Config{}, x, d); !strings.Contains(got, `"tries":102`) || strings.Count(got, "10.244.1.4:8080") > maxTries {
		t.Errorf("102 tries are logged as %s", got)
	}
}
