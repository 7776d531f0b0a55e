package h1_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/l7/h1"
)

// ok is a request that has to be answered before one that is refused.
const ok = "GET /ok HTTP/1.1\r\nHost: a.example\r\n\r\n"

const okAnswer = "200 GET /ok HTTP/1.1 host=a.example"

// TestRefused sends a good request and a bad one in one write: the good one is answered, the bad one gets
// its status, and whatever comes after it is not looked at.
func TestRefused(t *testing.T) {
	get := func(fields string) string { return "GET / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" }
	post := func(fields, body string) string { return "POST / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + body }
	chunked := func(body string) string { return post("Transfer-Encoding: chunked\r\n", body) }
	cases := []struct{ name, raw, want string }{
		// Lines.
		{"bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", "400 bare-lf"},
		{"bare LF after a field", get("X: 1\n"), "400 bare-lf"},
		{"bare LF as the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", "400 bare-lf"},
		{"bare CR in a value", get("X: 1\rY: 2\r\n"), "400 control-byte"},
		{"bare CR in the request line", "GET /\rX HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"},
		{"empty line first", "\r\n" + ok, "400 request-line"},
		{"LF first", "\n" + ok, "400 bare-lf"},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400 request-line"},
		{"space at the end", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "400 request-line"},
		{"tab for a space", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "400 method"},
		{"space before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 method"},
		{"no version", "GET /\r\nHost: a\r\n\r\n", "400 request-line"},
		{"version 2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505 version"},
		{"version 1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "505 version"},
		{"version 1.01", "GET / HTTP/1.01\r\nHost: a\r\n\r\n", "400 request-line"},
		{"small version", "GET / http/1.1\r\nHost: a\r\n\r\n", "400 request-line"},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 version"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400 tls-on-plain-port"},
		{"method with a slash", "G/T / HTTP/1.1\r\nHost: a\r\n\r\n", "400 method"},
		{"long method", strings.Repeat("A", 33) + " / HTTP/1.1\r\nHost: a\r\n\r\n", "400 method"},
		{"NUL in the target", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"},
		{"DEL in the target", "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"},
		{"fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"},
		{"relative target", "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"},
		{"star with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"},
		{"other scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"},
		{"authority without CONNECT", "GET a.example:80 HTTP/1.1\r\nHost: a\r\n\r\n", "400 target"},
		{"CONNECT", "CONNECT a.example:80 HTTP/1.1\r\nHost: a\r\n\r\n", "405 connect"},
		{"user in the target", "GET http://me@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400 host"},
		{"empty host in the target", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "400 host"},

		// Fields.
		{"folded field", get("X: 1\r\n 2\r\n"), "400 folded-field"},
		{"folded with a tab", get("X: 1\r\n\t2\r\n"), "400 folded-field"},
		{"space first", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400 folded-field"},
		{"space before the colon", get("Transfer-Encoding : chunked\r\n"), "400 space-before-colon"},
		{"tab before the colon", get("X\t: 1\r\n"), "400 space-before-colon"},
		{"no colon", get("X\r\n"), "400 field-name"},
		{"no name", get(": 1\r\n"), "400 field-name"},
		{"name with a quote", get("X\"Y: 1\r\n"), "400 field-name"},
		{"name with a byte above ASCII", get("X\xa0: 1\r\n"), "400 field-name"},
		{"name with NUL", get("X\x00: 1\r\n"), "400 control-byte"},
		{"NUL in a value", get("X: a\x00b\r\n"), "400 control-byte"},
		{"vertical tab before a coding", get("Transfer-Encoding: \x0bchunked\r\n"), "400 control-byte"},
		{"escape in a value", get("X: \x1b[0m\r\n"), "400 control-byte"},
		{"101 fields", get(strings.Repeat("X: 1\r\n", 100)), "431 many-fields"},
		{"long field", get("X: " + strings.Repeat("a", 33<<10) + "\r\n"), "431 long-head"},
		{"long head", get(strings.Repeat("X: "+strings.Repeat("a", 1000)+"\r\n", 40)), "431 long-head"},
		{"long target", "GET /" + strings.Repeat("a", 8<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", "414 long-target"},
		{"endless target", "GET /" + strings.Repeat("a", 64<<10), "414 long-target"},

		// Host.
		{"no host", "GET / HTTP/1.1\r\nX: 1\r\n\r\n", "400 host-missing"},
		{"two hosts", get("Host: b\r\n"), "400 host-repeated"},
		{"the same host twice", get("Host: a\r\n"), "400 host-repeated"},
		{"two hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "400 host-repeated"},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "400 host"},
		{"user in the host", "GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", "400 host"},
		{"path in the host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400 host"},
		{"space in the host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400 host"},
		{"list of hosts", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "400 host"},
		{"bad port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "400 host"},
		{"large port", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "400 host"},
		{"open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400 host"},
		{"bad host beside a target with one", "GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n", "400 host"},

		// Lengths.
		{"CL.TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG"), "400 length-and-coding"},
		{"TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "8\r\nSMUGGLED\r\n0\r\n\r\n"), "400 length-and-coding"},
		{"CL.0 with a coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 transfer-coding-http10"},
		{"TE.TE", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n", "0\r\n\r\n"), "400 transfer-coding-repeated"},
		{"chunked twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "400 transfer-coding-repeated"},
		{"chunked, chunked", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), "501 transfer-coding"},
		{"gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), "501 transfer-coding"},
		{"chunked, identity", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), "501 transfer-coding"},
		{"identity", post("Transfer-Encoding: identity\r\n", ""), "501 transfer-coding"},
		{"xchunked", post("Transfer-Encoding: xchunked\r\n", ""), "501 transfer-coding"},
		{"chunked with a parameter", post("Transfer-Encoding: chunked;a=b\r\n", ""), "501 transfer-coding"},
		{"empty coding", post("Transfer-Encoding:\r\n", ""), "501 transfer-coding"},
		{"two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"), "400 content-length-repeated"},
		{"the same length twice", post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"), "400 content-length-repeated"},
		{"list of lengths", post("Content-Length: 3, 3\r\n", "abc"), "400 content-length"},
		{"length with a plus", post("Content-Length: +3\r\n", "abc"), "400 content-length"},
		{"negative length", post("Content-Length: -1\r\n", "abc"), "400 content-length"},
		{"hexadecimal length", post("Content-Length: 0x3\r\n", "abc"), "400 content-length"},
		{"length with an underscore", post("Content-Length: 1_0\r\n", "abc"), "400 content-length"},
		{"empty length", post("Content-Length:\r\n", "abc"), "400 content-length"},
		{"overflowing length", post("Content-Length: 18446744073709551619\r\n", "abc"), "400 content-length"},

		// Connection and Expect.
		{"Connection names Content-Length", post("Connection: content-length\r\nContent-Length: 3\r\n", "abc"), "400 connection-names"},
		{"Connection names Host", get("Connection: close, host\r\n"), "400 connection-names"},
		{"Connection names X-Forwarded-For", get("Connection: X-Forwarded-For\r\n"), "400 connection-names"},
		{"Connection names it with underscores", get("Connection: x_real_ip\r\n"), "400 connection-names"},
		{"Connection names Transfer-Encoding", chunked("0\r\n\r\n")[:0] + post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), "400 connection-names"},
		{"Connection is no list of names", get("Connection: a b\r\n"), "400 field-name"},
		{"unknown expectation", post("Expect: a-miracle\r\nContent-Length: 3\r\n", "abc"), "417 expectation"},
		{"websocket with a body", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc", "400 upgrade-with-body"},

		// Chunks.
		{"no size", chunked("\r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"size with a plus", chunked("+3\r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"size with an underscore", chunked("1_0\r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"size with 0x", chunked("0x3\r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"size after a space", chunked(" 3\r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"size before a space", chunked("3 \r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"negative size", chunked("-1\r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"17 digits", chunked("00000000000000003\r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"overflow", chunked("ffffffffffffffff\r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"overflow by one digit", chunked("8000000000000000\r\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"LF after the size", chunked("3\nabc\r\n0\r\n\r\n"), "400 chunk-size"},
		{"CR and something after the size", chunked("3\rXabc\r\n0\r\n\r\n"), "400 chunk"},
		{"LF in an extension", chunked("3;a\nabc\r\n0\r\n\r\n"), "400 chunk-extension"},
		{"long extension", chunked("3;" + strings.Repeat("a", 5000) + "\r\nabc\r\n0\r\n\r\n"), "400 chunk-extension"},
		{"many extensions", chunked(strings.Repeat("1;"+strings.Repeat("a", 100)+"\r\nx\r\n", 50) + "0\r\n\r\n"), "400 chunk-extension"},
		{"no end of data", chunked("3\r\nabcX\r\n0\r\n\r\n"), "400 chunk"},
		{"LF after data", chunked("3\r\nabc\n0\r\n\r\n"), "400 chunk"},
		{"LF at the end", chunked("0\r\n\n"), "400 trailer"},
		{"LF in a trailer", chunked("0\r\nX: 1\n\r\n"), "400 trailer"},
		{"CR in a trailer", chunked("0\r\nX: 1\r2\r\n\r\n"), "400 control-byte"},
		{"CR and something at the end", chunked("0\r\n\rX"), "400 chunk"},
		{"folded trailer", chunked("0\r\nX: 1\r\n 2\r\n\r\n"), "400 folded-field"},
		{"long trailer", chunked("0\r\nX: " + strings.Repeat("a", 9<<10) + "\r\n\r\n"), "431 long-trailer"},
	}
	cfg := h1.Defaults()
	addr := serve(t, cfg, echo)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := send(t, addr, ok+c.raw+ok)
			if diff := cmp.Diff(got, []string{okAnswer, c.want}); diff != "" {
				t.Errorf("answers (-got +want):\n%s", diff)
			}
		})
	}
	counted := uint64(0)
	for _, n := range cfg.Stats.Refused() {
		counted += n
	}
	if counted != uint64(len(cases)) {
		t.Errorf("%d refusals counted, want %d", counted, len(cases))
	}
}

// TestAccepted sends requests that keep the rules, and one more after them on the same connection.
func TestAccepted(t *testing.T) {
	last := "GET /ok HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
	cases := []struct{ name, raw, want string }{
		{"plain", "GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n", `GET /a?b=c HTTP/1.1 host=a`},
		{"order and case are kept", "GET / HTTP/1.1\r\nx-B: 2\r\nHost: A:80\r\nX-a:  1\t\r\nX-B: 3\r\n\r\n", `GET / HTTP/1.1 host=A:80 x-B="2" X-a="1" X-B="3"`},
		{"empty value", "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", `GET / HTTP/1.1 host=a X=""`},
		{"bytes above ASCII", "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\nX: \xc3\xa4\r\n\r\n", "GET /\xc3\xa4 HTTP/1.1 host=a X=\"ä\""},
		{"unknown method", "PURGE / HTTP/1.1\r\nHost: a\r\n\r\n", `PURGE / HTTP/1.1 host=a`},
		{"absolute target", "GET HTTP://B:8080?x HTTP/1.1\r\nHost: a\r\n\r\n", `GET /?x HTTP/1.1 host=B:8080`},
		{"absolute target with a path", "GET https://b/c/d?e HTTP/1.1\r\nHost: a\r\n\r\n", `GET /c/d?e HTTP/1.1 host=b`},
		{"star", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", `OPTIONS * HTTP/1.1 host=a`},
		{"double slash", "GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n", `GET //b/c HTTP/1.1 host=a`},
		{"address as host", "GET / HTTP/1.1\r\nHost: [fd00::1]:443\r\n\r\n", `GET / HTTP/1.1 host=[fd00::1]:443`},
		{"HTTP/1.0 kept alive", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", `GET / HTTP/1.0 host=`},
		{"sized body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", `POST / HTTP/1.1 host=a body="abc"`},
		{"empty sized body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", `POST / HTTP/1.1 host=a`},
		{"length with zeros", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0003\r\n\r\nabc", `POST / HTTP/1.1 host=a body="abc"`},
		{"GET with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", `GET / HTTP/1.1 host=a body="abc"`},
		{"a body that looks like a request", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n", `POST / HTTP/1.1 host=a body="GET / HTTP/1.1\r\n\r\n"`},
		{"chunks", "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n0000A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n", `POST / HTTP/1.1 host=a body="abc0123456789"`},
		{"empty chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n000\r\n\r\n", `POST / HTTP/1.1 host=a`},
		{"trailers", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\nHost: evil\r\nContent-Length: 5\r\nX-Forwarded-For: 1.1.1.1\r\nx_real_ip: 1.1.1.1\r\nAuthorization: x\r\nCookie: y\r\n\r\n", `POST / HTTP/1.1 host=a body="x" trailer X-Sum="7"`},
		{"hop by hop", "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine, TE\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: gzip, trailers\r\nX-Mine: 1\r\nX-Yours: 2\r\nTrailer: Z\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n", `GET / HTTP/1.1 host=a X-Yours="2"`},
		{"underscores", "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1.1.1.1\r\nContent_Length: 9\r\nX-A: 1\r\n\r\n", `GET / HTTP/1.1 host=a X-A="1"`},
		{"h2c is not granted", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", `GET / HTTP/1.1 host=a`},
		{"expectation without a body", "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", `GET / HTTP/1.1 host=a`},
		{"100 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("Via: 1\r\n", 99) + "\r\n", `GET / HTTP/1.1 host=a` + strings.Repeat(` Via="1"`, 99)},
		{"large head", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 30<<10) + "\r\n\r\n", `GET / HTTP/1.1 host=a X="` + strings.Repeat("a", 30<<10) + `"`},
		{"large body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("b", 100000), `POST / HTTP/1.1 host=a body="` + strings.Repeat("b", 100000) + `"`},
		{"large chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("2710\r\n"+strings.Repeat("c", 10000)+"\r\n", 9) + "0\r\n\r\n", `POST / HTTP/1.1 host=a body="` + strings.Repeat("c", 90000) + `"`},
	}
	addr := serve(t, h1.Defaults(), echo)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := send(t, addr, c.raw+last)
			if diff := cmp.Diff(got, []string{"200 " + c.want, okAnswer}); diff != "" {
				t.Errorf("answers (-got +want):\n%s", diff)
			}
		})
	}
}
