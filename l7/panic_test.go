package l7

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/policy"
)

// A saboteur is a stage and a filter that does what it must not.
type saboteur func(x *exchange.Exchange)

func (s saboteur) Admit(x *exchange.Exchange) bool { s(x); return true }
func (s saboteur) Apply(x *exchange.Exchange)      { s(x) }

// brokenReader is a body that panics after its first bytes.
type brokenReader struct{ first io.Reader }

func (b *brokenReader) Read(p []byte) (int, error) {
	if n, err := b.first.Read(p); err == nil {
		return n, nil
	}
	panic("on purpose: in a body")
}

func (b *brokenReader) Close() error { return nil }

// panicWorld is a world in which requests panic in every place that a policy has, by their host.
func panicWorld(t *testing.T, netHTTP bool, log io.Writer) *world {
	t.Helper()
	w := newWorld(t, func(c *Config) { c.NetHTTP, c.Log = netHTTP, slog.New(slog.NewTextHandler(log, nil)) })
	w.service("default/web", serve(t, func(rw http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(rw, "fine %d", len(text))
	}))
	panics := saboteur(func(*exchange.Exchange) { panic("on purpose") })
	for host, p := range map[string]*policy.Pipeline{
		"good.com":   {},
		"stage.com":  {Stages: []exchange.Stage{panics}},
		"filter.com": {Filters: []exchange.Filter{panics}},
		"answer.com": {Filters: []exchange.Filter{saboteur(func(x *exchange.Exchange) {
			x.Response.Body.Close()
			x.Response.Length, x.Response.Body = exchange.Unknown, &brokenReader{first: bytes.NewReader(make([]byte, 100_000))}
		})}},
		"request.com": {Stages: []exchange.Stage{saboteur(func(x *exchange.Exchange) {
			if x.Request.Body != nil {
				x.Request.Body = &brokenReader{first: io.LimitReader(x.Request.Body, 100)}
			}
		})}},
	} {
		w.change(ing("default/"+strings.ReplaceAll(host, ".", "-"), host, nil, leads("/", "web")))
		m, ok := w.s.table.Load().Lookup(host, "/")
		if !ok {
			t.Fatalf("no rule for %s", host)
		}
		m.Value.pipeline = p // before anybody has asked
	}
	return w
}

// TestPanics has requests panic, beside others on the same connection of HTTP/2 and on other ones of HTTP/1.1: it is the end of that
// request, and of no other.
func TestPanics(t *testing.T) {
	for _, netHTTP := range []bool{false, true} {
		t.Run(fmt.Sprintf("net/http=%v", netHTTP), func(t *testing.T) {
			log := &lines{}
			w := panicWorld(t, netHTTP, log)
			secure := w.secure()
			t.Run("HTTP/1.1", func(t *testing.T) { w.testPanics(t, "http", w.panicClient(w.addr, false)) })
			t.Run("HTTP/2", func(t *testing.T) { w.testPanics(t, "https", w.panicClient(secure, true)) })
			want := uint64(2 * len(panicking))
			w.until("all panics are counted", func() bool { return w.s.stats.Panics.Load() >= want })
			if got := w.s.stats.Panics.Load(); got != want {
				t.Errorf("%d panics are counted, want %d", got, want)
			}
			log.mu.Lock()
			defer log.mu.Unlock()
			if n := strings.Count(log.b.String(), "a request ended in a panic"); n != int(want) || strings.Count(log.b.String(), "panic_test.go") < n {
				t.Errorf("%d panics are in the log, or not where they were:\n%s", n, log.b.String())
			}
			if n := w.s.stats.InFlight.Load(); n != 0 {
				t.Errorf("%d requests are still under way", n)
			}
		})
	}
}

// panicking are the hosts whose requests panic, and what a client may see of that.
var panicking = []struct {
	host   string
	status int // 0: the answer breaks off
}{{"stage.com", 500}, {"filter.com", 500}, {"answer.com", 0}, {"request.com", 500}}

// secure serves over TLS, too, and returns where.
func (w *world) secure() string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := w.s.Engine().Serve(ctx, "https", l, true); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(func() { w.s.Engine().Stop(); l.Close(); cancel(); done.Wait() })
	return l.Addr().String()
}

func (w *world) panicClient(addr string, http2 bool) *http.Client {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: new(http.Protocols), MaxIdleConnsPerHost: 10,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetHTTP2(http2)
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func (w *world) testPanics(t *testing.T, scheme string, client *http.Client) {
	// A request that is under way all the time. All hosts are asked under one name, so that HTTP/2 has one connection.
	body, rest := io.Pipe()
	long := make(chan error, 1)
	go func() {
		status, text, err := post(client, scheme, "good.com", body)
		if err == nil && (status != 200 || text != "fine 7") {
			err = fmt.Errorf("%d %q", status, text)
		}
		long <- err
	}()
	if _, err := io.WriteString(rest, "one"); err != nil {
		t.Fatal(err)
	}
	for _, c := range panicking {
		status, text, err := post(client, scheme, c.host, strings.NewReader(strings.Repeat("x", 100_000)))
		switch {
		case c.status == 0 && err == nil:
			t.Errorf("%s: got %d with %d bytes, want an answer that breaks off", c.host, status, len(text))
		case c.status != 0 && (err != nil || status != c.status):
			t.Errorf("%s: got %d %q, %v, want %d", c.host, status, text, err, c.status)
		}
		if status, text, err := post(client, scheme, "good.com", strings.NewReader("x")); err != nil || status != 200 || text != "fine 1" {
			t.Errorf("after %s: got %d %q, %v", c.host, status, text, err)
		}
	}
	if _, err := io.WriteString(rest, "more"); err != nil {
		t.Fatal(err)
	}
	rest.Close()
	if err := <-long; err != nil {
		t.Errorf("the request that was under way: %v", err)
	}
}

func post(client *http.Client, scheme, host string, body io.Reader) (int, string, error) {
	req, err := http.NewRequest(http.MethodPost, scheme+"://one.com/", body)
	if err != nil {
		return 0, "", err
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), errors.Join(err, resp.Body.Close())
}
