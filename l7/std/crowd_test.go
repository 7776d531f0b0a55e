package std

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

const ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// waiter answers, but /wait only when it is told to, or when the test is over.
func waiter(t *testing.T) (s *script, asked, release chan struct{}) {
	asked, release = make(chan struct{}), make(chan struct{})
	over := t.Context().Done()
	return &script{Answer: func(x *exchange.Exchange) {
		if x.Request.RawPath == "/wait" {
			asked <- struct{}{}
			select {
			case <-release:
			case <-over:
			}
		}
		respond(x, 200, 2, strings.NewReader("ok"))
	}}, asked, release
}

// idlers returns the connections that do nothing, those first that have done so for longest, as soon as there are n.
func (p *place) idlers(t *testing.T, n int) []*connection {
	t.Helper()
	var list []idler
	until(t, fmt.Sprintf("%d connections are idle", n), func() bool {
		p.crowd.mu.Lock()
		defer p.crowd.mu.Unlock()
		list = list[:0]
		for c := range p.crowd.all {
			if since, ok := c.idle(); ok {
				list = append(list, idler{c, since})
			}
		}
		return len(list) == n
	})
	slices.SortFunc(list, func(a, b idler) int { return int(a.since - b.since) })
	var out []*connection
	for _, i := range list {
		out = append(out, i.c)
	}
	return out
}

// counts returns what listeners say of refused and ended connections.
func (p *place) counts() map[string]uint64 {
	out := map[string]uint64{}
	for _, l := range p.Stats().Listeners() {
		for name, n := range map[string]uint64{
			"full": l.Shed.Load(), "client": l.PerClient.Load(), "room": l.Evicted.Load(),
			"idle": l.CutIdle.Load(), "head": l.CutHead.Load(), "handshake": l.CutHandshake.Load(),
		} {
			if out[name] += n; out[name] == 0 {
				delete(out, name)
			}
		}
	}
	return out
}

func (p *place) expect(t *testing.T, want string) {
	t.Helper()
	if got := fmt.Sprint(p.counts()); got != "map["+want+"]" {
		t.Errorf("got %s, want %s", got, want)
	}
}

// dialFrom is dial from an address of this machine's.
func (p *place) dialFrom(t *testing.T, addr string) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0))}
	c, err := d.Dial("tcp", p.plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{Conn: c, t: t, r: bufio.NewReader(c)}
}

// limited changes a Config to have few connections, without a moment's grace for those that have nothing to do.
func limited(most, each int64) func(*Config) {
	return func(c *Config) {
		c.MaxConns, c.MaxPerClient, c.pressure.fresh = most, each, 1
	}
}

func TestMaxConns(t *testing.T) { both(t, testMaxConns) }

// testMaxConns has one connection make room for another, but not while it has a request.
func testMaxConns(t *testing.T, start starter) {
	s, asked, release := waiter(t)
	p := start(t, s, limited(1, 100))
	first := p.dial(t)
	first.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
	<-asked
	if got := p.dial(t).all(); got != "" {
		t.Errorf("there was no room, but got %q", got)
	}
	release <- struct{}{}
	first.until("ok")
	p.idlers(t, 1)
	third := p.dial(t)
	third.send(ask)
	third.until("ok")
	if got := first.all(); got != "" {
		t.Errorf("the idle one got %q", got)
	}
	p.expect(t, "full:1 room:1")
	third.Close()
	until(t, "all are counted out", func() bool { return p.Stats().open() == 0 })
	p.crowd.mu.Lock()
	defer p.crowd.mu.Unlock()
	if n, m := len(p.crowd.all), len(p.crowd.clients); n+m != 0 {
		t.Errorf("%d connections and %d clients are still known", n, m)
	}
}

func TestOldestGoes(t *testing.T) { both(t, testOldestGoes) }

func testOldestGoes(t *testing.T, start starter) {
	s, asked, release := waiter(t)
	p := start(t, s, limited(4, 100))
	busy := p.dial(t)
	busy.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
	<-asked
	kept := map[string]*client{}
	for i, name := range []string{"a", "b", "c"} {
		kept[name] = p.dial(t)
		kept[name].send(ask)
		kept[name].until("ok")
		p.idlers(t, i+1)
	}
	before := p.idlers(t, 3)
	kept["a"].send(ask) // is the youngest now
	kept["a"].until("ok")
	until(t, "it is idle again", func() bool { return p.idlers(t, 3)[2] == before[0] })
	for i, name := range []string{"b", "c", "a"} {
		newcomer := p.dial(t)
		newcomer.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
		<-asked
		if got := kept[name].all(); got != "" {
			t.Errorf("%d: %s got %q", i, name, got)
		}
	}
	if got := p.dial(t).all(); got != "" {
		t.Errorf("all are busy, but got %q", got)
	}
	release <- struct{}{}
	p.expect(t, "full:1 room:3")
}

func TestOldestGoesHTTP2(t *testing.T) {
	s, asked, release := waiter(t)
	p := start(t, s, limited(1, 100))
	client := p.h2(t)
	over := make(chan error, 1)
	go func() {
		resp, err := client.Get("https://a.com/wait")
		if err == nil {
			err = resp.Body.Close()
		}
		over <- err
	}()
	<-asked
	if got := p.dial(t).all(); got != "" {
		t.Errorf("a stream was open, but got %q", got)
	}
	release <- struct{}{}
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	p.idlers(t, 1)
	c := p.dial(t)
	c.send(ask)
	c.until("ok")
	p.expect(t, "full:1 room:1")
}

func TestMaxPerClient(t *testing.T) { both(t, testMaxPerClient) }

func testMaxPerClient(t *testing.T, start starter) {
	s, _, _ := waiter(t)
	p := start(t, s, limited(4, 2))
	var list []*client
	for range 2 {
		c := p.dial(t)
		c.send(ask)
		c.until("ok")
		list = append(list, c)
	}
	if got := p.dial(t).all(); got != "" {
		t.Errorf("the third got %q", got)
	}
	for range 2 {
		other := p.dialFrom(t, "127.0.0.2")
		other.send(ask)
		other.until("ok")
	}
	p.idlers(t, 4)
	if got := p.dial(t).all(); got != "" { // it is full as well, but nobody goes for one that may not come
		t.Errorf("the fourth got %q", got)
	}
	p.expect(t, "client:2")
	list[0].Close()
	until(t, "there is room again", func() bool { return p.Stats().open() == 3 })
	c := p.dial(t)
	c.send(ask)
	c.until("ok")
	p.expect(t, "client:2")
}

// TestMaxPerClientProxied counts who the PROXY header names.
func TestMaxPerClientProxied(t *testing.T) {
	s, _, _ := waiter(t)
	p := start(t, s, func(c *Config) {
		limited(100, 1)(c)
		c.Settings.Proxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		c.Settings.Forwarders = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	})
	for i, c := range []struct {
		header string
		served bool
	}{
		{"TCP4 192.0.2.1 192.0.2.9 1000 80", true},
		{"TCP4 192.0.2.1 192.0.2.9 1001 80", false},
		{"TCP4 192.0.2.2 192.0.2.9 1000 80", true},
		{"TCP4 192.0.2.7 192.0.2.9 1000 80", true},
		{"TCP4 192.0.2.7 192.0.2.9 1001 80", true},
		{"TCP6 2001:db8:0:1::1 2001:db8::9 1000 80", true},
		{"TCP6 2001:db8:0:1:ffff::1 2001:db8::9 1000 80", false},
		{"TCP6 2001:db8:0:2::1 2001:db8::9 1000 80", true},
		{"UNKNOWN", true},
		{"UNKNOWN", true},
	} {
		conn := p.dial(t)
		conn.send("PROXY " + c.header + "\r\n" + ask)
		if c.served {
			conn.until("ok")
		} else if got := conn.all(); got != "" {
			t.Errorf("%d: %s got %q", i, c.header, got)
		}
	}
	p.expect(t, "client:2")
}

func TestHurry(t *testing.T) { both(t, testHurry) }

// testHurry has connections that take their time, in good times and in bad ones.
func testHurry(t *testing.T, start starter) {
	for _, c := range []struct {
		name, send, until string // what the client begins with, and waits for
		safe              bool
		want, counts      string
	}{
		{"head", "GET / HTT", "", false, "HTTP/1.1 408 ", "head:1"},
		{"second head", ask + "GET / HTT", "ok", false, "HTTP/1.1 408 ", "head:1"},
		{"idle", ask, "ok", false, "", "idle:1"},
		{"never asks", "", "", false, "", "idle:1"},
		{"handshake", "", "", true, "", "handshake:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, asked, _ := waiter(t)
			p := start(t, s, func(config *Config) {
				limited(4, 100)(config)
				config.pressure = pressure{head: time.Hour, idle: time.Hour, tick: time.Millisecond, fresh: time.Hour}
				if strings.HasPrefix(c.counts, "idle") {
					config.pressure.head *= 1000
				} else {
					config.pressure.idle *= 1000
				}
			})
			at := p.dial
			if c.safe {
				at = p.dialSafe
			}
			slow := at(t)
			slow.send(c.send)
			slow.until(c.until)
			for range 2 {
				p.dial(t).send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
				<-asked
			}
			until(t, "all have come in", func() bool {
				p.crowd.mu.Lock()
				defer p.crowd.mu.Unlock()
				return len(p.crowd.all) == 3
			})
			later := time.Now().Add(2 * time.Hour)
			if p.crowd.sweep(later) {
				t.Error("it is crowded with 3 of 4")
			}
			p.expect(t, "")
			p.dial(t).send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
			<-asked
			until(t, "one is cut", func() bool {
				p.crowd.sweep(later)
				return len(p.counts()) > 0
			})
			if got := slow.all(); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
				t.Errorf("got %q, want %q", got, c.want)
			}
			p.expect(t, c.counts)
			until(t, "nobody looks any more", func() bool {
				p.crowd.mu.Lock()
				defer p.crowd.mu.Unlock()
				return len(p.crowd.all) == 3 && !p.crowd.sweeping
			})
		})
	}
}

// TestSweepOn leaves it to the crowd to look.
func TestSweepOn(t *testing.T) { both(t, testSweepOn) }

func testSweepOn(t *testing.T, start starter) {
	s, _, _ := waiter(t)
	p := start(t, s, func(c *Config) {
		limited(4, 100)(c)
		c.pressure = pressure{head: 20 * time.Millisecond, idle: time.Hour, tick: time.Millisecond, fresh: time.Hour}
	})
	for range 4 {
		p.dial(t).send("GET / HTT")
	}
	until(t, "one is cut", func() bool { return len(p.counts()) > 0 })
	until(t, "it is not crowded", func() bool { return p.Stats().open() < 4 })
}

// dialSafe is dial where TLS is spoken.
func (p *place) dialSafe(t *testing.T) *client {
	t.Helper()
	c, err := net.Dial("tcp", p.safe.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{Conn: c, t: t, r: bufio.NewReader(c)}
}
