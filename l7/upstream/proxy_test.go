package upstream_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
	"github.com/fairlead-project/fairlead/l7/upstream"
)

// gates puts Gates before connections, on TLS if there is a configuration for that.
type gates struct {
	net.Listener
	cfg *h1.Config
	tls *tls.Config
}

func (g gates) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g.tls != nil {
			s := tls.Server(c, g.tls)
			if s.Handshake() != nil {
				c.Close()
				continue
			}
			c = s
		}
		return h1.NewGate(c, g.cfg), nil
	}
}

// A proxy is the shortest one that these packages make: a Gate, net/http's server, a Client.
type proxy struct {
	client *upstream.Client
	to     upstream.Target
	idle   time.Duration

	mu      sync.Mutex
	tunnels []error
}

func (p *proxy) start(t testing.TB, secure *tls.Config) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := h1.Defaults()
	cfg.MaxRequests = 0
	s := &http.Server{Handler: p}
	cfg.Configure(s)
	go s.Serve(gates{l, cfg, secure})
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := h1.Of(r)
	if q.Refused != nil {
		http.Error(w, q.Refused.Reason, q.Refused.Status)
		return
	}
	path, query, has := strings.Cut(q.Target, "?")
	x := &exchange.Exchange{Context: r.Context(), Request: exchange.Request{
		Method: q.Method, Path: path, Query: query, HasQuery: has, RawHost: q.Host, Header: q.Header, Length: q.Length,
		Upgrade: q.Upgrade, Peer: netip.MustParseAddrPort(r.RemoteAddr), Trailer: &q.Trailer,
	}}
	if q.Length != 0 {
		http.NewResponseController(w).EnableFullDuplex()
		x.Request.Body = struct {
			io.Reader
			*h1.Request
		}{r.Body, q}
	}
	resp, err := p.client.Do(x, p.to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if resp.Status == 101 {
		p.tunnel(w, resp)
		return
	}
	for _, f := range resp.Header {
		w.Header().Add(f.Name, f.Value)
	}
	if resp.Length >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(resp.Length, 10))
	}
	w.WriteHeader(resp.Status)
	if resp.Body != nil {
		defer resp.Body.Close()
		if _, err := io.Copy(w, resp.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

func (p *proxy) tunnel(w http.ResponseWriter, resp *exchange.Response) {
	conn, early, err := h1.Hijack(w)
	if err != nil {
		panic(err)
	}
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
	for _, f := range resp.Header {
		fmt.Fprintf(&head, "%s: %s\r\n", f.Name, f.Value)
	}
	head.WriteString("\r\n")
	conn.Write(head.Bytes())
	_, err = p.client.Tunnel(context.Background(), resp, conn, early, p.idle)
	p.mu.Lock()
	p.tunnels = append(p.tunnels, err)
	p.mu.Unlock()
}

// ended waits for the n-th tunnel and returns how it ended.
func (p *proxy) ended(t *testing.T, n int) error {
	t.Helper()
	until(t, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.tunnels) >= n })
	return p.tunnels[n-1]
}

func TestWebsocket(t *testing.T) {
	up := websocket.Upgrader{}
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		c, err := up.Upgrade(w, r, http.Header{"X-From": {"backend"}})
		if err != nil {
			return
		}
		defer c.Close()
		c.WriteMessage(websocket.TextMessage, []byte("welcome"))
		for {
			kind, b, err := c.ReadMessage()
			if err != nil {
				return
			}
			c.WriteMessage(kind, b)
		}
	}
	plain := httptest.NewServer(http.HandlerFunc(handler))
	defer plain.Close()
	encrypted, roots := secure(t, false, nil, handler)
	for _, side := range []string{"plain to plain", "tls to plain", "plain to tls", "tls to tls"} {
		t.Run(side, func(t *testing.T) {
			p := &proxy{client: client(t, upstream.Config{}), idle: time.Minute}
			p.to = upstream.Target{Addr: addrOf(plain.Listener.Addr())}
			if strings.HasSuffix(side, "to tls") {
				p.to = upstream.Target{Addr: addrOf(encrypted.Listener.Addr()), Protocol: upstream.HTTPS, TLS: upstream.TLSConfig(upstream.TLSOptions{Verify: true, Roots: roots})}
			}
			d, url := websocket.Dialer{}, "ws://"
			var settings *tls.Config
			if strings.HasPrefix(side, "tls") {
				settings = &tls.Config{Certificates: encrypted.TLS.Certificates}
				d.TLSClientConfig, url = &tls.Config{RootCAs: roots, ServerName: "example.com"}, "wss://"
			}
			url += p.start(t, settings)
			if _, resp, err := d.Dial(url+"/no", nil); err == nil || resp == nil || resp.StatusCode != 403 {
				t.Errorf("refused upgrade: %v", err)
			}
			c, resp, err := d.Dial(url+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Header.Get("X-From") != "backend" {
				t.Errorf("fields of the 101: %v", resp.Header)
			}
			echoes(t, c)
			c.Close()
			if err := p.ended(t, 1); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "pipe") {
				t.Errorf("the tunnel ended with %v", err)
			}
			until(t, func() bool { return p.client.Stats.Tunnels.Load() == 0 && p.client.Stats.Active.Load() == 0 })
		})
	}
}

// echoes sends messages of many sizes, several at a time.
func echoes(t *testing.T, c *websocket.Conn) {
	t.Helper()
	if _, b, err := c.ReadMessage(); string(b) != "welcome" {
		t.Fatalf("first message %q, %v", b, err)
	}
	sizes := []int{0, 1, 125, 126, 70000, 1 << 20}
	go func() {
		for _, n := range sizes {
			c.WriteMessage(websocket.BinaryMessage, bytes.Repeat([]byte{byte(n)}, n))
		}
	}()
	for _, n := range sizes {
		if _, b, err := c.ReadMessage(); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{byte(n)}, n)) {
			t.Fatalf("echo of %d bytes: %d, %v", n, len(b), err)
		}
	}
}

const upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

// upgraded is a proxy to an endpoint that grants the upgrade and then does as it likes.
func upgraded(t *testing.T, idle time.Duration, talk func(c *net.TCPConn, r *bufio.Reader)) (*proxy, *net.TCPConn, *bufio.Reader) {
	t.Helper()
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\nfirst words")
		talk(c.(*net.TCPConn), r)
	})
	p := &proxy{client: client(t, upstream.Config{}), to: upstream.Target{Addr: b.addr}, idle: idle}
	c, err := net.Dial("tcp", p.start(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, upgrade+"early words")
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			return p, c.(*net.TCPConn), r
		}
	}
}

// TestHalfClose ends each direction by itself, and loses no words that came early.
func TestHalfClose(t *testing.T) {
	heard := make(chan string, 1)
	p, c, r := upgraded(t, time.Minute, func(c *net.TCPConn, r *bufio.Reader) {
		b, _ := io.ReadAll(r) // until the client's half-close
		heard <- string(b)
		io.WriteString(c, " and last ones")
		c.CloseWrite()
	})
	io.WriteString(c, " and more")
	c.CloseWrite()
	if got := <-heard; got != "early words and more" {
		t.Errorf("the endpoint heard %q", got)
	}
	if b, err := io.ReadAll(r); string(b) != "first words and last ones" || err != nil {
		t.Errorf("the client heard %q, %v", b, err)
	}
	if err := p.ended(t, 1); err != nil {
		t.Errorf("the tunnel ended with %v, want nil", err)
	}
}

// TestTunnelIdle wants a silent tunnel to end, and one in which a single direction speaks to stay.
func TestTunnelIdle(t *testing.T) {
	const idle = 800 * time.Millisecond
	spoke := make(chan time.Time, 1)
	p, _, r := upgraded(t, idle, func(c *net.TCPConn, r *bufio.Reader) {
		for range 4 {
			io.WriteString(c, "x")
			time.Sleep(idle / 2)
		}
		spoke <- time.Now()
		io.Copy(io.Discard, r)
	})
	b, _ := io.ReadAll(r)
	if got := string(b); got != "first words"+strings.Repeat("x", 4) {
		t.Errorf("heard %q", got)
	}
	if took := time.Since(<-spoke); took < idle/2 || took > 10*idle {
		t.Errorf("ended %v after the last word, want about %v", took+idle/2, idle)
	}
	if err := p.ended(t, 1); err == nil {
		t.Error("the tunnel ended without an error, want a timeout")
	}
}

// TestTunnelReset has one side vanish: the other must learn of it.
func TestTunnelReset(t *testing.T) {
	gone := make(chan error, 1)
	p, c, _ := upgraded(t, time.Minute, func(c *net.TCPConn, r *bufio.Reader) {
		_, err := io.Copy(io.Discard, r)
		gone <- err
	})
	c.SetLinger(0)
	c.Close()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Fatal("the endpoint was not told")
	}
	p.ended(t, 1)
}

// TestTunnelEnds with the context, as at the end of a drain.
func TestTunnelContext(t *testing.T) {
	b := raw(t, func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
		io.Copy(io.Discard, r)
	})
	c := client(t, upstream.Config{})
	x := ask(t, "GET", "/", nil, 0)
	x.Request.Upgrade = "websocket"
	resp, err := c.Do(x, upstream.Target{Addr: b.addr})
	if err != nil {
		t.Fatal(err)
	}
	_, in := tcpPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := c.Tunnel(ctx, resp, in, nil, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v, want the context's error", err)
	}
	if _, err := c.Tunnel(ctx, resp, in, nil, time.Minute); err == nil {
		t.Error("a second tunnel in the same answer")
	}
}

// backendServer is a real server with small, large and streamed answers.
func backendServer(t testing.TB) netip.AddrPort {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			w.Header().Set("Content-Length", strconv.Itoa(len(big)))
			w.Write(big)
		case "/echo":
			http.NewResponseController(w).EnableFullDuplex()
			io.Copy(w, r.Body)
		case "/late":
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		default:
			io.WriteString(w, "hello")
		}
	}))
	t.Cleanup(s.Close)
	return addrOf(s.Listener.Addr())
}

// TestProxy has net/http's client on one side and its server on the other, many at a time.
func TestProxy(t *testing.T) {
	certified, roots := secure(t, false, nil, nil)
	settings := &tls.Config{Certificates: certified.TLS.Certificates}
	for name, secure := range map[string]*tls.Config{"http": nil, "https": settings} {
		t.Run(name, func(t *testing.T) {
			p := &proxy{client: client(t, upstream.Config{}), to: upstream.Target{Addr: backendServer(t)}}
			url := name + "://" + p.start(t, secure)
			tr := &http.Transport{MaxIdleConnsPerHost: 16, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "example.com"}}
			defer tr.CloseIdleConnections()
			hc := &http.Client{Transport: tr, Timeout: 20 * time.Second}
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for j := range 20 {
						if err := oneOf(hc, url, i+j); err != nil {
							t.Errorf("worker %d, request %d: %v", i, j, err)
							return
						}
					}
				})
			}
			wg.Wait()
			if p.client.Stats.Spliced.Load() == 0 {
				t.Error("nothing was spliced")
			}
		})
	}
}

// oneOf does the n-th kind of request and checks the answer.
func oneOf(hc *http.Client, url string, n int) error {
	body := strings.Repeat("abc", 1000*n)
	var resp *http.Response
	var err error
	want := "hello"
	switch n % 5 {
	case 0:
		resp, err = hc.Get(url + "/")
	case 1:
		resp, err = hc.Get(url + "/big")
		want = strings.Repeat("0123456789abcdef", 1<<16)
	case 2:
		resp, err = hc.Post(url+"/echo", "", strings.NewReader(body))
		want = body
	case 3:
		resp, err = hc.Post(url+"/echo", "", struct{ io.Reader }{strings.NewReader(body)})
		want = body
	default:
		resp, err = hc.Post(url+"/late", "", strings.NewReader(body))
		want = "too large\n"
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if string(b) != want {
		return fmt.Errorf("%d bytes in kind %d, want %d", len(b), n%5, len(want))
	}
	return nil
}

func benchmarkProxy(b *testing.B, path string, secure *tls.Config, pool *x509.CertPool) {
	p := &proxy{client: client(b, upstream.Config{MaxRequests: 1 << 40}), to: upstream.Target{Addr: backendServer(b)}}
	c, err := net.Dial("tcp", p.start(b, secure))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, 64<<10)
	request := "GET " + path + " HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n"
	buf := make([]byte, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		io.WriteString(c, request)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProxySmall(b *testing.B) { benchmarkProxy(b, "/", nil, nil) }
func BenchmarkProxyBig(b *testing.B)   { benchmarkProxy(b, "/big", nil, nil) }
