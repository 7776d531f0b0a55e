//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// An l7Clients is what the parts of TestL7Clients share.
type l7Clients struct {
	*l7Bed
	proxy *l7Proxy
	web   *l7Pod
}

// TestL7Clients lets real clients speak with real servers through the process: what each of them depends on has to
// arrive.
func TestL7Clients(t *testing.T) {
	t.Parallel()
	b := newL7Bed(t, "clients", 1)
	c := &l7Clients{l7Bed: b, web: b.pod(t, b.Nodes[0], 2)}
	grpc := c.startGRPC(t)
	objects := append(l7Service("web", "", 80, 8080, endpoints(c.web)...), l7Service("grpc", "", 80, 9000, endpoints(grpc)...)...)
	objects = append(objects,
		l7Class("fairlead", "fairlead.io/ingress"), l7Certificate(t, "crt", "web.test", "grpc.test", "small.test", "idle.test"),
		withTLS(l7Ingress("web", "web.test", map[string]string{"fairlead.io/ssl-redirect": "false"}, l7Path{path: "/", service: "web"}), "crt"),
		withTLS(l7Ingress("small", "small.test", map[string]string{"fairlead.io/ssl-redirect": "false", "fairlead.io/proxy-body-size": "1m"}, l7Path{path: "/", service: "web"}), "crt"),
		withTLS(l7Ingress("idle", "idle.test", map[string]string{"fairlead.io/ssl-redirect": "false", "fairlead.io/proxy-read-timeout": "1"}, l7Path{path: "/", service: "web"}), "crt"),
		withTLS(l7Ingress("grpc", "grpc.test", map[string]string{"fairlead.io/backend-protocol": "GRPC"}, l7Path{path: "/", service: "grpc"}), "crt"),
	)
	b.folder.put(t, "test", objects...)
	c.proxy = b.start(t, l7Start{})
	b.folder.settle(t, c.proxy)
	t.Run("curl", c.testCurl)
	t.Run("h2load", c.testH2load)
	t.Run("websocket", c.testWebSocket)
	t.Run("half close", c.testHalfClose)
	t.Run("grpc", c.testGRPC)
	t.Run("events", c.testEvents)
	t.Run("bodies", c.testBodies)
	t.Run("too large", c.testTooLarge)
	t.Run("100-continue", c.testContinue)
	t.Run("http 1.0", c.testHTTP10)
	t.Run("user", c.testUser)
}

// grpcEcho builds e2e/tools/grpcecho, which is in the module of tools because gRPC is.
func grpcEcho(t *testing.T, b *l7Bed) string {
	t.Helper()
	path := filepath.Join(b.home, "grpcecho")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./grpcecho")
	build.Dir = "tools"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build e2e/tools/grpcecho: %v\n%s", err, out)
	}
	return path
}

func (c *l7Clients) startGRPC(t *testing.T) *l7Pod {
	t.Helper()
	p := c.emptyPod(t, c.Nodes[0], 3)
	server := p.Command(t.Context(), grpcEcho(t, c.l7Bed), "serve", fmt.Sprintf("%s:9000", p.v4()))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if err := server.WaitOutput(t.Context(), "serving"); err != nil {
		t.Fatal(err)
	}
	return p
}

// testH2load puts a load on with h2load, many requests at a time on each connection where the protocol has that.
func (c *l7Clients) testH2load(t *testing.T) {
	h2load := requireProgram(t, "h2load", "nghttp2-client")
	for _, v := range []struct {
		url  string
		args []string
	}{
		{"https://web.test/load", []string{"-m", "16"}}, {"https://web.test/load", []string{"--h1"}}, {"http://web.test/load", []string{"--h1"}},
	} {
		port := map[bool]string{true: "443", false: "80"}[strings.HasPrefix(v.url, "https")]
		args := append(v.args, "-n", "2000", "-c", "8", "-T", "10", "--connect-to", c.proxy.addr().String()+":"+port, v.url)
		out, err := c.Client.Output(t.Context(), h2load, args...)
		if err != nil || !strings.Contains(out, "2000 succeeded, 0 failed, 0 errored, 0 timeout") || !strings.Contains(out, "2000 2xx") {
			t.Errorf("h2load %v: %v\n%s", args, err, out)
		}
	}
}

// testCurl asks with curl, in each version of HTTP.
func (c *l7Clients) testCurl(t *testing.T) {
	curl := requireProgram(t, "curl", "curl")
	for _, v := range []struct{ flag, scheme, want string }{
		{"--http1.0", "http", "1 200"}, {"--http1.1", "http", "1.1 200"}, {"--http1.1", "https", "1.1 200"}, {"--http2", "https", "2 200"},
	} {
		port := map[string]int{"http": 80, "https": 443}[v.scheme]
		out, err := c.Client.Output(t.Context(), curl, "-sSk", v.flag, "-m", "10", "--resolve", fmt.Sprintf("web.test:%d:%s", port, c.proxy.addr()),
			"-H", "X-Curl: yes", "-d", "some body", "-w", "\n%{http_version} %{http_code}", v.scheme+"://web.test/a/b?c=d")
		if err != nil {
			t.Errorf("curl %s %s: %v", v.flag, v.scheme, err)
			continue
		}
		for _, want := range []string{`"Method":"POST"`, `"URI":"/a/b?c=d"`, `"X-Curl":["yes"]`, `"Text":"some body"`, `"Host":"web.test"`, `"X-Forwarded-For":["` + netns.ClientAddr(1).V4.String()} {
			if !strings.Contains(out, want) {
				t.Errorf("curl %s %s: the server has not seen %s:\n%s", v.flag, v.scheme, want, out)
			}
		}
		if got := lastLines(out, 1); got != v.want && v.flag != "--http1.0" {
			t.Errorf("curl %s %s: got %q, want %q", v.flag, v.scheme, got, v.want)
		}
	}
}

// wsEcho echoes messages.
func wsEcho(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }, Subprotocols: []string{"chat.v2"}}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(kind, message) != nil {
			return
		}
	}
}

func (c *l7Clients) testWebSocket(t *testing.T) {
	c.web.answer(wsEcho)
	defer c.web.answer(nil)
	for _, scheme := range []string{"ws", "wss"} {
		dialer := websocket.Dialer{
			NetDialContext: c.proxy.dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Subprotocols: []string{"chat.v1", "chat.v2"},
			HandshakeTimeout: 10 * time.Second,
		}
		conn, resp, err := dialer.DialContext(t.Context(), scheme+"://web.test/ws", http.Header{"Origin": {"http://web.test"}})
		if err != nil {
			t.Fatalf("%s: %v (%v)", scheme, err, resp)
		}
		if got := conn.Subprotocol(); got != "chat.v2" {
			t.Errorf("%s: subprotocol %q, want chat.v2", scheme, got)
		}
		for _, size := range []int{0, 1, 125, 126, 70000, 1 << 20} {
			sent := bytes.Repeat([]byte{'x'}, size)
			if err := conn.WriteMessage(websocket.BinaryMessage, sent); err != nil {
				t.Fatal(err)
			}
			if _, got, err := conn.ReadMessage(); err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("%s: %d bytes came back of %d: %v", scheme, len(got), size, err)
			}
		}
		conn.Close()
		c.checkIdle(t, dialer, scheme)
	}
}

// checkIdle holds that a connection without traffic ends after proxy-read-timeout and one with some does not.
func (c *l7Clients) checkIdle(t *testing.T, dialer websocket.Dialer, scheme string) {
	conn, _, err := dialer.DialContext(t.Context(), scheme+"://idle.test/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for range 4 { // 1.6 s in all
		time.Sleep(400 * time.Millisecond)
		if err := conn.WriteMessage(websocket.TextMessage, []byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.ReadMessage(); err != nil {
			t.Fatalf("%s: with traffic: %v", scheme, err)
		}
	}
	begun := time.Now()
	_, _, err = conn.ReadMessage()
	if took := time.Since(begun); err == nil || took < 900*time.Millisecond || took > 4*time.Second {
		t.Errorf("%s: an idle connection ended after %v (%v), want about 1 s", scheme, took, err)
	}
}

// testHalfClose ends one direction of an upgraded connection and wants the rest of the other.
func (c *l7Clients) testHalfClose(t *testing.T) {
	c.web.answer(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		got, _ := io.ReadAll(rw) // until the client has ended its direction
		fmt.Fprintf(conn, "%d bytes, then the end", len(got))
	})
	defer c.web.answer(nil)
	conn := c.proxy.raw(t, 80)
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: web.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", resp, err)
	}
	fmt.Fprint(conn, strings.Repeat("z", 100_000))
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(in)
	if want := "100000 bytes, then the end"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func (c *l7Clients) testGRPC(t *testing.T) {
	out, err := c.Client.Output(t.Context(), filepath.Join(c.home, "grpcecho"), "check", fmt.Sprintf("%s:443", c.proxy.addr()), "grpc.test")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// testEvents holds that each piece of an answer arrives before the next one is written.
func (c *l7Clients) testEvents(t *testing.T) {
	next := make(chan struct{})
	c.web.answer(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	defer c.web.answer(nil)
	for name, client := range c.versions() {
		resp, err := client.Get("https://web.test/events")
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(resp.Body)
		for i := range 5 {
			line, err := in.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
				t.Errorf("%s: got %q, %v, want %q", name, line, err, want)
			}
			if _, err := in.ReadString('\n'); err != nil {
				t.Error(err)
			}
			next <- struct{}{}
		}
		resp.Body.Close()
	}
}

func (c *l7Clients) versions() map[string]*http.Client {
	return map[string]*http.Client{
		"HTTP/1.1": c.proxy.client(),
		"HTTP/2":   c.proxy.client((*http.Protocols).SetHTTP2),
	}
}

// testBodies sends and gets 64 MiB, with and without announcing the length.
func (c *l7Clients) testBodies(t *testing.T) {
	const size = 64 << 20
	c.web.answer(func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Sum", hex.EncodeToString(h.Sum(nil)))
		w.Header().Set("X-Size", fmt.Sprint(n))
		w.Header().Set("X-Announced", fmt.Sprint(r.ContentLength))
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		io.Copy(w, io.LimitReader(new(pattern), size))
	})
	defer c.web.answer(nil)
	h := sha256.New()
	io.Copy(h, io.LimitReader(new(pattern), size))
	sum := hex.EncodeToString(h.Sum(nil))
	for name, client := range c.versions() {
		for _, path := range []string{"/known", "/unknown"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://web.test"+path, io.LimitReader(new(pattern), size))
			if err != nil {
				t.Fatal(err)
			}
			want := "-1"
			if path == "/known" {
				r.ContentLength, want = size, fmt.Sprint(size)
			}
			resp, err := client.Do(r)
			if err != nil {
				t.Errorf("%s %s: %v", name, path, err)
				continue
			}
			h.Reset()
			n, err := io.Copy(h, resp.Body)
			resp.Body.Close()
			if err != nil || n != size || hex.EncodeToString(h.Sum(nil)) != sum {
				t.Errorf("%s %s: %d bytes came, %v", name, path, n, err)
			}
			if resp.Header.Get("X-Sum") != sum || resp.Header.Get("X-Announced") != want {
				t.Errorf("%s %s: the server has got %s bytes, %s announced, want %s", name, path, resp.Header.Get("X-Size"), resp.Header.Get("X-Announced"), want)
			}
		}
	}
}

// A pattern is an endless text.
type pattern struct{ at int }

func (t *pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte('a' + (t.at+i)%251%26)
	}
	t.at += len(p)
	return len(p), nil
}

// testTooLarge sends more than proxy-body-size, with and without announcing it.
func (c *l7Clients) testTooLarge(t *testing.T) {
	for name, client := range c.versions() {
		for _, announced := range []bool{true, false} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://small.test/up", io.LimitReader(new(pattern), 2<<20))
			if err != nil {
				t.Fatal(err)
			}
			if announced {
				r.ContentLength = 2 << 20
			}
			a, err := ask(client, r)
			if err != nil || a.Status != http.StatusRequestEntityTooLarge {
				t.Errorf("%s, announced %v: got %+v, %v, want 413", name, announced, a, err)
			}
		}
		if a := send(t, client, http.MethodPut, "https://small.test/up", strings.Repeat("x", 1<<20)); a.Status != http.StatusOK || a.Seen.Body != 1<<20 {
			t.Errorf("%s: exactly as large as may be: %d %s", name, a.Status, a.Body)
		}
	}
}

// testContinue holds that the body is only asked for when a backend wants it.
func (c *l7Clients) testContinue(t *testing.T) {
	for _, asked := range []struct{ path, host, first string }{
		{"/fine", "web.test", "HTTP/1.1 100 Continue"}, {"/up", "small.test", "HTTP/1.1 413 "},
	} {
		conn := c.proxy.raw(t, 80)
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 3000000\r\nExpect: 100-continue\r\n\r\n", asked.path, asked.host)
		in := bufio.NewReader(conn)
		line, err := in.ReadString('\n')
		if !strings.HasPrefix(line, asked.first) {
			t.Errorf("%s: got %q, %v, want %q", asked.host, line, err, asked.first)
		}
		if !strings.Contains(line, " 100 ") {
			continue
		}
		if _, err := in.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(conn, io.LimitReader(new(pattern), 3_000_000)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("got %v, %v", resp, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(body), `"Body":3000000`) {
			t.Errorf("%v: %.300s", err, body)
		}
	}
}

// testHTTP10 asks as of old: without a Host, and with one; the connection ends the answer.
func (c *l7Clients) testHTTP10(t *testing.T) {
	for _, q := range []struct{ head, status string }{
		{"GET /old HTTP/1.0\r\nHost: web.test\r\n\r\n", " 200 "}, {"GET /old HTTP/1.0\r\n\r\n", " 404 "},
		{"GET /old HTTP/1.0\r\nHost: web.test\r\nConnection: keep-alive\r\n\r\nGET /again HTTP/1.0\r\nHost: web.test\r\n\r\n", " 200 "},
	} {
		conn := c.proxy.raw(t, 80)
		io.WriteString(conn, q.head)
		all, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, io.EOF) || !strings.Contains(string(all[:min(len(all), 20)]), q.status) {
			t.Errorf("%q: got %q, %v, want%s", q.head, all, err, q.status)
		}
		if n := strings.Count("\n"+string(all), "\nHTTP/1.0 ") + strings.Count(string(all), "}HTTP/1.0 "); n != strings.Count(q.head, "HTTP/1.") {
			t.Errorf("%q: %d answers:\n%s", q.head, n, all)
		}
		if strings.Contains(strings.ToLower(string(all)), "transfer-encoding") {
			t.Errorf("%q: HTTP/1.0 knows no chunks:\n%s", q.head, all)
		}
	}
}

// testUser holds that nobody in particular runs the process, and it has no privilege.
func (c *l7Clients) testUser(t *testing.T) {
	status, err := exec.CommandContext(t.Context(), "cat", fmt.Sprintf("/proc/%d/status", c.proxy.Cmd.Process.Pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("Uid:\t%d\t%d", l7User, l7User), "CapEff:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("want %q in\n%s", want, status)
		}
	}
}
