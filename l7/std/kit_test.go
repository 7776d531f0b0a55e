package std

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/exchange/exchangetest"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// A script is a Handler made of functions.
type script = exchangetest.Script[Done]

// last waits until a request is over, and returns what was said of the latest.
func last(t *testing.T, s *script) Done {
	t.Helper()
	until(t, "a request is over", func() bool { return len(s.Ended()) > 0 })
	all := s.Ended()
	return all[len(all)-1]
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// A place is an Engine that serves at two loopback addresses.
type place struct {
	*Engine
	settings    Settings
	plain, safe net.Listener
}

// A starter is start for one of the servers of HTTP/1.1.
type starter func(t *testing.T, h Handler, change func(*Config)) *place

// both runs a test with our own server of HTTP/1.1 and with net/http's.
func both(t *testing.T, test func(*testing.T, starter)) {
	for _, netHTTP := range []bool{false, true} {
		t.Run(map[bool]string{false: "fairlead", true: "std"}[netHTTP], func(t *testing.T) {
			test(t, func(t *testing.T, h Handler, change func(*Config)) *place {
				return start(t, h, func(c *Config) {
					c.NetHTTP = netHTTP
					if change != nil {
						change(c)
					}
				})
			})
		})
	}
}

func start(t *testing.T, h Handler, change func(*Config)) *place {
	t.Helper()
	pair, err := certs.SelfSigned(time.Now(), "a.com")
	if err != nil {
		t.Fatal(err)
	}
	table := certs.NewTable()
	table.SetDefault(certs.Default{Pairs: []*certs.Pair{pair}})
	config, warnings := certs.ServerConfig(certs.Settings{}, table)
	if len(warnings) > 0 {
		t.Fatal(warnings)
	}
	gate := h1.Defaults()
	c := Config{
		Handler: h, Log: slog.New(slog.DiscardHandler),
		Settings: Settings{Gate: gate, Idle: time.Minute, TLS: config},
	}
	if change != nil {
		change(&c)
	}
	p := &place{Engine: New(c), settings: c.Settings, plain: listen(t), safe: listen(t)}
	var tasks sync.WaitGroup
	for l, secure := range map[net.Listener]bool{p.plain: false, p.safe: true} {
		tasks.Go(func() {
			if err := p.Serve(context.Background(), "x", l, secure); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		p.Stop()
		p.plain.Close()
		p.safe.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_ = p.Shutdown(ctx)
		tasks.Wait()
	})
	until(t, "both are served", func() bool { return len(p.Stats().Listeners()) == 2 })
	return p
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A client is a connection as a client has it.
type client struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func (p *place) dial(t *testing.T) *client {
	t.Helper()
	c, err := net.Dial("tcp", p.plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{Conn: c, t: t, r: bufio.NewReader(c)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// until reads up to and with a text.
func (c *client) until(end string) string {
	c.t.Helper()
	var b strings.Builder
	for !strings.HasSuffix(b.String(), end) {
		x, err := c.r.ReadByte()
		if err != nil {
			c.t.Fatalf("got %q, then %v; want %q", b.String(), err, end)
		}
		b.WriteByte(x)
	}
	return b.String()
}

// all reads until the other side closes, and fails if it takes its time.
func (c *client) all() string {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	if err, ok := err.(net.Error); ok && err.Timeout() {
		c.t.Fatalf("got %q, and then nothing, not even the end", b)
	}
	return string(b)
}

// h2 is a client that speaks HTTP/2.
func (p *place) h2(t *testing.T) *http.Client {
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: "a.com"}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", p.safe.Addr().String())
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func respond(x *exchange.Exchange, status int, length int64, body io.Reader, fields ...exchange.Field) {
	exchangetest.Respond(x, status, length, body, fields...)
}
