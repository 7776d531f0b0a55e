//go:build linux

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// TestL7Raw sends the process what no well-behaved client sends, and looks with nginx, HAProxy and Node behind it at
// whether what arrives is what was meant, or nothing.
func TestL7Raw(t *testing.T) {
	t.Parallel()
	r := newL7Raw(t, "raw")
	r.testHTTP1(t)
	t.Run("handshakes", r.testHandshakes)
	t.Run("http2 requests", r.testHTTP2Requests)
	t.Run("http2 trailers", r.testHTTP2Trailers)
	t.Run("http2 floods", r.testHTTP2Floods)
	r.untouched(t, "everything")
	r.unsmuggled(t)
}

// TestL7RawStd does the same with net/http in place of our own server of HTTP/1.1.
func TestL7RawStd(t *testing.T) {
	t.Parallel()
	r := newL7Raw(t, "rawstd", "--http-engine", "std")
	r.testHTTP1(t)
	r.untouched(t, "everything")
	r.unsmuggled(t)
}

func (r *l7Raw) testHTTP1(t *testing.T) {
	t.Run("refused", r.testRefused)
	t.Run("fields", r.testFields)
	t.Run("paths", r.testPaths)
	t.Run("trailers", r.testTrailers)
	t.Run("pipeline", r.testPipeline)
	t.Run("answered early", r.testAnsweredEarly)
	t.Run("limits", r.testLimits)
	t.Run("slow", r.testSlow)
	t.Run("many connections", r.testManyConnections)
	t.Run("answers", r.testAnswers)
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n"

// refusals are requests that end their connection, with one answer that is an error, or without any. HOST
// is the host.
var refusals = []struct {
	name, bytes string
	statuses    string // any of these; "" is the end without an answer
}{
	{"length and chunks", "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, "400"},
	{"chunks and length", "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 50\r\n\r\n0\r\n\r\n" + smuggled, "400"},
	{"two lengths", "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n" + smuggled, "400"},
	{"list of lengths", "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0, 44\r\n\r\n" + smuggled, "400"},
	{"signed length", "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: +0\r\n\r\n" + smuggled, "400"},
	{"negative length", "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: -1\r\n\r\n" + smuggled, "400"},
	{"hexadecimal length", "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0x0\r\n\r\n" + smuggled, "400"},
	{"huge length", "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 18446744073709551616\r\n\r\n" + smuggled, "400 413"},
	{"empty length", "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: \r\n\r\n" + smuggled, "400"},
	{"other coding", "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled, "400 501"},
	{"coding with tab", "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + smuggled, "400 501"},
	{"coding twice", "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, "400 501"},
	{"chunks of identity", "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" + smuggled, "400 501"},
	{"chunked is not last", "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + smuggled, "400 501"},
	{"chunks in HTTP/1.0", "POST / HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, "400"},
	{"blank before colon", "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, "400"},
	{"folded line", "POST / HTTP/1.1\r\nHost: HOST\r\nX-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + smuggled, "400"},
	{"folded first line", "GET / HTTP/1.1\r\n X-A: b\r\nHost: HOST\r\n\r\n" + smuggled, "400"},
	{"line feeds alone", "GET / HTTP/1.1\nHost: HOST\n\n" + smuggled, "400"},
	{"line feed in head", "POST / HTTP/1.1\r\nHost: HOST\r\nX-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + smuggled, "400"},
	{"carriage return in value", "GET / HTTP/1.1\r\nHost: HOST\r\nX-A: b\rX-B: c\r\n\r\n" + smuggled, "400"},
	{"NUL in value", "GET / HTTP/1.1\r\nHost: HOST\r\nX-A: b\x00c\r\n\r\n" + smuggled, "400"},
	{"NUL in name", "GET / HTTP/1.1\r\nHost: HOST\r\nX\x00A: b\r\n\r\n" + smuggled, "400"},
	{"no colon", "GET / HTTP/1.1\r\nHost: HOST\r\nX-A\r\n\r\n" + smuggled, "400"},
	{"empty name", "GET / HTTP/1.1\r\nHost: HOST\r\n: b\r\n\r\n" + smuggled, "400"},
	{"two hosts", "GET / HTTP/1.1\r\nHost: HOST\r\nHost: evil.test\r\n\r\n" + smuggled, "400"},
	{"no host", "GET / HTTP/1.1\r\nX-A: b\r\n\r\n" + smuggled, "400"},
	{"bad host", "GET / HTTP/1.1\r\nHost: HOST/evil\r\n\r\n" + smuggled, "400"},
	{"list of hosts", "GET / HTTP/1.1\r\nHost: HOST, evil.test\r\n\r\n" + smuggled, "400"},
	{"blank in target", "GET /a b HTTP/1.1\r\nHost: HOST\r\n\r\n" + smuggled, "400"},
	{"two blanks", "GET  / HTTP/1.1\r\nHost: HOST\r\n\r\n" + smuggled, "400"},
	{"tab in the first line", "GET\t/\tHTTP/1.1\r\nHost: HOST\r\n\r\n" + smuggled, "400"},
	{"NUL in target", "GET /\x00 HTTP/1.1\r\nHost: HOST\r\n\r\n" + smuggled, "400"},
	{"fragment", "GET /a#b HTTP/1.1\r\nHost: HOST\r\n\r\n" + smuggled, "400"},
	{"HTTP/0.9", "GET /\r\n\r\n", "400"},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: HOST\r\n\r\n" + smuggled, "400 505"},
	{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: HOST\r\n\r\n" + smuggled, "400 505"},
	{"preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 505"},
	{"CONNECT", "CONNECT HOST:443 HTTP/1.1\r\nHost: HOST\r\n\r\n" + smuggled, "400 405 501"},
	{"bad method", "GE(T / HTTP/1.1\r\nHost: HOST\r\n\r\n" + smuggled, "400 501"},
	{"garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
	{"connection names the host", "GET / HTTP/1.1\r\nHost: HOST\r\nConnection: Host\r\n\r\n" + smuggled, "400"},
	{"connection names the client", "GET / HTTP/1.1\r\nHost: HOST\r\nConnection: close, x-forwarded-for\r\n\r\n" + smuggled, "400"},
	{"connection names the length", "POST / HTTP/1.1\r\nHost: HOST\r\nConnection: Content-Length\r\nContent-Length: 45\r\n\r\n" + smuggled, "400"},
}

// badChunks are bodies that are wrong in the middle of a request: the backend's connection is given up with it.
var badChunks = map[string]string{
	"line feed after size":   "1\na\r\n0\r\n\r\n",
	"line feed after chunk":  "1\r\na\n0\r\n\r\n",
	"longer than said":       "1\r\nabc\r\n0\r\n\r\n",
	"negative size":          "-1\r\na\r\n0\r\n\r\n",
	"prefixed size":          "0x1\r\na\r\n0\r\n\r\n",
	"huge size":              "fffffffffffffffff\r\na\r\n0\r\n\r\n",
	"no size":                "\r\na\r\n0\r\n\r\n",
	"blank before size":      " 1\r\na\r\n0\r\n\r\n",
	"NUL in an extension":    "1;a=\x00\r\na\r\n0\r\n\r\n",
	"line feed in extension": "1;a=b\nc\r\na\r\n0\r\n\r\n",
	"folded trailer":         "1\r\na\r\n0\r\nX-A: b\r\n c\r\n\r\n",
	"bad trailer":            "1\r\na\r\n0\r\nX-A : b\r\n\r\n",
}

func (r *l7Raw) testRefused(t *testing.T) {
	for _, host := range r.hosts[:3] {
		for _, c := range refusals {
			answers := r.exchange(t, strings.ReplaceAll(c.bytes, "HOST", host))
			if got := statuses(answers); !slices.Contains(strings.Fields(c.statuses), got) {
				t.Errorf("%s to %s: got %q, want one of %s alone:\n%.300q", c.name, host, got, c.statuses, answers)
			}
		}
		for name, body := range badChunks {
			answers := r.exchange(t, strings.ReplaceAll("POST /body HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n"+body+smuggled, "HOST", host))
			// nginx answers before it has seen the body.
			if got := statuses(answers); got != "400" && got != "" && (got != "200" || host == "node.test") {
				t.Errorf("%s to %s: got %q, want 400 or the end:\n%.300q", name, host, got, answers)
			}
		}
	}
	r.untouched(t, "what was refused")
}

// testFields is about fields that are between client and proxy, or say who the client is.
func (r *l7Raw) testFields(t *testing.T) {
	s := r.seen(t, "GET /fields HTTP/1.1\r\nHost: node.test\r\nConnection: close, X-Private\r\n"+
		"X-Private: secret\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"+
		"Proxy-Authorization: Basic eDp5\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 6.6.6.7\r\nX-Real-IP: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n"+
		"X-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 666\r\nForwarded: for=6.6.6.6\r\nProxy: http://evil.test\r\nX-Kept: a\r\nX-Kept: b\r\n\r\n")
	client := netns.ClientAddr(1).V4.String()
	for name, want := range map[string][]string{
		"X-Private": nil, "Keep-Alive": nil, "Proxy-Connection": nil, "TE": nil, "Upgrade": nil, "HTTP2-Settings": nil, "X_Forwarded_For": nil,
		"Proxy-Authorization": nil, "Proxy": nil, "Forwarded": nil,
		"X-Forwarded-For": {client}, "X-Real-IP": {client}, "X-Forwarded-Host": {"node.test"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Port": {"80"},
		"Host": {"node.test"}, "X-Kept": {"a", "b"},
	} {
		if got := s.field(name); !slices.Equal(got, want) {
			t.Errorf("%s: the server has seen %q, want %q", name, got, want)
		}
	}
	// The target says the host where it is absolute, and the field does not count (RFC 9112, 3.2.2).
	s2 := r.seen(t, "GET http://node.test/absolute HTTP/1.1\r\nHost: nginx.test\r\nConnection: close\r\n\r\n")
	if s2.Host != "node.test" || s2.URI != "/absolute" || len(s2.Fields) == 0 {
		t.Errorf("an absolute target: the server has seen %+v", s2)
	}
	if strings.Contains(strings.Join(s.Fields, " "), "6.6.6") {
		t.Errorf("the server has seen a forged address: %q", s.Fields)
	}
}

func (r *l7Raw) testPaths(t *testing.T) {
	for sent, want := range map[string]string{
		"/a/../b": "/b", "/a/./b": "/a/b", "/a/%2e%2e/b": "/b", "/a/..": "/", "/%61": "/a",
		"/a?b=/../c": "/a?b=/../c", "/a%20b": "/a%20b", "/a;b=c/d": "/a;b=c/d", "/%C3%A4": "/%C3%A4", "/%c3%a4": "/%C3%A4", "/a%0d%0aX-A:b": "/a%0D%0AX-A:b", "/\xc3\xa4": "/%C3%A4", "/a?": "/a?",
	} {
		for _, host := range r.hosts[:3] {
			if s := r.seen(t, "GET "+sent+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); s.URI != want {
				t.Errorf("%s: %s has seen %q, want %q", sent, host, s.URI, want)
			}
		}
	}
	for _, bad := range []string{"/%00", "/%", "/%g0", "/a\\b", "*x", "a", "/%2e%2e%5c", "/../../etc/passwd", "/%2E%2E/x"} {
		if got := statuses(r.exchange(t, "GET "+bad+" HTTP/1.1\r\nHost: node.test\r\nConnection: close\r\n\r\n")); got != "400" {
			t.Errorf("%q: got %q, want 400", bad, got)
		}
	}
}

// testTrailers sends trailers, among them such as may only be header fields.
func (r *l7Raw) testTrailers(t *testing.T) {
	s := r.seen(t, "POST /trailers HTTP/1.1\r\nHost: node.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"+
		"3\r\nabc\r\n0\r\nX-Sum: 17\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded-For: 6.6.6.6\r\nContent-Length: 5\r\nHost: evil.test\r\nAuthorization: x\r\nConnection: close\r\n\r\n")
	if s.Body != "abc" {
		t.Errorf("body %q", s.Body)
	}
	for i := 0; i+1 < len(s.Trailers); i += 2 {
		if !strings.EqualFold(s.Trailers[i], "X-Sum") {
			t.Errorf("the server has got the trailer %s: %s", s.Trailers[i], s.Trailers[i+1])
		}
	}
	if strings.Contains(strings.Join(s.Fields, " "), "6.6.6.6") || s.Host != "node.test" {
		t.Errorf("a trailer has become a field: %+v", s)
	}
}

func (r *l7Raw) testPipeline(t *testing.T) {
	var b strings.Builder
	for i := range 20 {
		fmt.Fprintf(&b, "POST /%d HTTP/1.1\r\nHost: node.test\r\nContent-Length: 3\r\n\r\nabc", i)
		fmt.Fprintf(&b, "POST /c%d HTTP/1.1\r\nHost: haproxy.test\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\n\r\n", i)
	}
	answers := r.exchange(t, b.String())
	if got := statuses(answers); got != strings.TrimSpace(strings.Repeat("200 ", 40)) {
		t.Errorf("got %q, want 40 times 200", got)
	}
	at := 0
	for i := range 20 {
		for _, uri := range []string{fmt.Sprintf(`"uri":"/%d"`, i), fmt.Sprintf(`"uri":"/c%d"`, i)} {
			j := strings.Index(answers[at:], uri)
			if j < 0 {
				t.Fatalf("no %s after the one before", uri)
			}
			at += j
		}
	}
}

// testAnsweredEarly answers requests whose bodies nobody wants, and wants the connection to be good for more, or to
// end with notice.
func (r *l7Raw) testAnsweredEarly(t *testing.T) {
	c := r.proxy.raw(t, 80)
	in := bufio.NewReader(c)
	for i := range 20 {
		if _, err := io.WriteString(c, "POST /x HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: 1025\r\n\r\n"+strings.Repeat("x", 1025)); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusNotFound || resp.Close {
			t.Fatalf("request %d: %d, closing %v, %v", i, resp.StatusCode, resp.Close, err)
		}
		time.Sleep(5 * time.Millisecond) // for the server to wait for the next one
	}
}

func (r *l7Raw) testLimits(t *testing.T) {
	for name, c := range map[string]struct {
		bytes, want string
	}{
		"long line":         {"GET / HTTP/1.1\r\nHost: node.test\r\nX-Long: " + strings.Repeat("a", 40000) + "\r\n\r\n", "400 431"},
		"long path":         {"GET /" + strings.Repeat("a", 9000) + " HTTP/1.1\r\nHost: node.test\r\n\r\n", "400 414"},
		"many":              {"GET / HTTP/1.1\r\nHost: node.test\r\n" + strings.Repeat("X-A: b\r\n", 6000) + "\r\n", "400 431"},
		"as many as may be": {"GET / HTTP/1.1\r\nHost: node.test\r\nConnection: close\r\n" + strings.Repeat("X-A: "+strings.Repeat("b", 500)+"\r\n", 25) + "\r\n", "200"},
		"endless":           {"GET / HTTP/1.1\r\nHost: node.test\r\nX-A: " + strings.Repeat("a", 1<<20), "400 431"},
	} {
		if got := statuses(r.exchange(t, c.bytes)); !slices.Contains(strings.Fields(c.want), got) && (name != "endless" || got != "") {
			t.Errorf("%s: got %q, want one of %s", name, got, c.want)
		}
	}
}

// testSlow sends heads and bodies drop by drop. client-header-timeout and client-body-timeout are a second.
func (r *l7Raw) testSlow(t *testing.T) {
	for name, c := range map[string]struct {
		begin string
		drop  string // sent every 200 ms
		limit time.Duration
	}{
		"nothing of a head": {"G", "", 3 * time.Second},
		"head in drops":     {"GET / HTTP/1.1\r\nHost: node.test\r\n", "X-A: b\r\n", 3 * time.Second},
		"silent body":       {"POST / HTTP/1.1\r\nHost: node.test\r\nContent-Length: 100000\r\n\r\nabc", "", 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := r.proxy.raw(t, 80)
			io.WriteString(conn, c.begin)
			ended := make(chan string)
			begun := time.Now()
			go func() {
				all, _ := io.ReadAll(conn)
				ended <- string(all)
			}()
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case all := <-ended:
					if took := time.Since(begun); took > c.limit || took < 500*time.Millisecond {
						t.Errorf("the connection ended after %v, want 1 s", took)
					}
					if got := statuses(all); got != "" && got != "408" && got != "400" {
						t.Errorf("got %q, want 408 or the end: %.300q", got, all)
					}
					return
				case <-tick.C:
					io.WriteString(conn, c.drop)
				}
			}
		})
	}
}

// l7RawConns is how many connections a client may have.
const l7RawConns = 200

// testManyConnections keeps more connections than one client may have, each of which has asked something.
func (r *l7Raw) testManyConnections(t *testing.T) {
	const get = "GET /many HTTP/1.1\r\nHost: go.test\r\n\r\n"
	served := func(conn net.Conn) bool {
		if _, err := io.WriteString(conn, get); err != nil {
			return false
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		return err == nil && resp.StatusCode == http.StatusOK
	}
	var kept []net.Conn
	for range l7RawConns + 20 {
		if conn := r.proxy.raw(t, 80); served(conn) {
			kept = append(kept, conn)
		}
	}
	// Those before us may have left some connections that are not over yet.
	if n := len(kept); n > l7RawConns || n < l7RawConns/2 {
		t.Errorf("%d connections of one client were served, want %d", n, l7RawConns)
	}
	for _, conn := range kept {
		conn.Close()
	}
	within(t, 10*time.Second, func() error {
		conn := r.proxy.raw(t, 80)
		defer conn.Close()
		if !served(conn) {
			return errors.New("nobody is served any more")
		}
		return nil
	})
}

// testAnswers lets a server answer what no client should get.
func (r *l7Raw) testAnswers(t *testing.T) {
	client := r.proxy.client()
	for _, c := range []struct {
		name, answer string
		end          bool
		want         int
	}{
		{"fine", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, 200},
		{"until the end", "HTTP/1.1 200 OK\r\n\r\nok", true, 200},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok", true, 200},
		{"early hints", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, 200},
		{"length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false, 502},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", false, 502},
		{"bad length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", false, 502},
		{"other coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", true, 502},
		{"NUL", "HTTP/1.1 200 OK\r\nX-A: \x00\r\nContent-Length: 2\r\n\r\nok", false, 502},
		{"folded", "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok", false, 502},
		{"blank before colon", "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 2\r\n\r\nok", false, 502},
		{"bad status", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", false, 502},
		{"no HTTP", "hello\r\n\r\n", true, 502},
		{"nothing", "", true, 502},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Le", true, 502},
		{"upgrade that nobody wanted", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", false, 502},
		{"huge head", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 2000) + "\r\n", true, 502},
	} {
		r.recorder.reset(c.answer, c.end)
		a, err := ask(client, request(t, "http://raw.test/"))
		if err != nil || a.Status != c.want || c.want == 200 && a.Body != "ok" {
			t.Errorf("%s: got %+v, %v, want %d", c.name, a, err, c.want)
		}
	}
	for name, answer := range map[string]string{ // an answer that has begun can only be broken off
		"short body":  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok",
		"short chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nok",
		"bad chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokk\r\n0\r\n\r\n",
	} {
		r.recorder.reset(answer, true)
		if a, err := ask(client, request(t, "http://raw.test/")); err == nil {
			t.Errorf("%s: the client takes it for whole: %+v", name, a)
		}
	}
	r.recorder.reset("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother", false)
	for range 4 { // the second answer must not be taken for one to the next request
		if a, err := ask(client, request(t, "http://raw.test/")); err != nil || a.Body != "ok" {
			t.Errorf("an answer too many: got %+v, %v", a, err)
		}
	}
	r.recorder.reset("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false)
	fetch(t, client, "http://raw.test/a?b", "X-A: b")
	if got := r.recorder.bytes(); !strings.HasPrefix(got, "GET /a?b HTTP/1.1\r\nHost: raw.test\r\n") || strings.Count(got, "\r\n\r\n") != 1 {
		t.Errorf("written to the server: %q", got)
	}
}
