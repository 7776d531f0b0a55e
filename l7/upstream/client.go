package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// A Protocol is how an endpoint is spoken to.
type Protocol uint8

// The protocols of backends. GRPC and H2C are the same on the wire: HTTP/2 in plain text
// with prior knowledge; GRPCS is HTTP/2 in TLS.
const (
	HTTP Protocol = iota
	HTTPS
	GRPC
	GRPCS
	H2C
)

// Timeouts of one try. A zero means the Client's.
type Timeouts struct {
	Connect time.Duration // until there is a connection, TLS handshake included
	Read    time.Duration // between two reads of the answer, and until its head
	Write   time.Duration // between two writes of the request
}

// A Target is one endpoint and how to ask it.
type Target struct {
	Addr     netip.AddrPort
	Protocol Protocol
	// TLS is for HTTPS and GRPCS. Connections are shared by those who give the same pointer, so
	// it has to be the same for all requests under one rule; see TLSConfig.
	TLS *tls.Config
	// Host is for the Host field in place of the client's.
	Host     string
	Timeouts Timeouts
	// Head is the room for the head of an answer, up to 1 MiB; 0 means that of the Config.
	Head int
	// Fresh asks for a new connection, after a kept one has failed.
	Fresh bool
}

// A Config is what a Client goes by. Zeros are the defaults.
type Config struct {
	Timeouts    Timeouts      // 5 s, 60 s, 60 s
	Idle        int           // connections kept for each endpoint; 320
	IdleTimeout time.Duration // how long; 60 s
	MaxRequests int           // on one connection; 10,000
	MaxAge      time.Duration // of a connection when it is to be kept; 1 h
	Limits      h1.Limits     // of answers; 64 KiB and 100 fields
	// Dial replaces net.Dialer, for tests.
	Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
}

func (c Config) orDefaults() Config {
	orDuration := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	orInt := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	orDuration(&c.Timeouts.Connect, 5*time.Second)
	orDuration(&c.Timeouts.Read, 60*time.Second)
	orDuration(&c.Timeouts.Write, 60*time.Second)
	orDuration(&c.IdleTimeout, 60*time.Second)
	orDuration(&c.MaxAge, time.Hour)
	orInt(&c.Idle, 320)
	orInt(&c.MaxRequests, 10000)
	orInt(&c.Limits.Head, 64<<10)
	return c
}

// A Client asks endpoints. It may be used by any number of goroutines.
type Client struct {
	Stats Stats
	cfg   atomic.Pointer[Config]

	mu        sync.RWMutex
	endpoints map[key]*endpoint
	h2        map[key]*h2endpoint
	closed    bool

	stop chan struct{}
	wg   sync.WaitGroup
}

// key is what connections may be shared by.
type key struct {
	addr netip.AddrPort
	tls  *tls.Config
}

// New returns a Client. Close ends it.
func New(cfg Config) *Client {
	c := &Client{
		stop:      make(chan struct{}),
		endpoints: map[key]*endpoint{}, h2: map[key]*h2endpoint{},
	}
	c.Configure(cfg)
	c.wg.Go(c.tidy)
	return c
}

// Configure replaces what c goes by. It counts for requests from now on; connections that are kept stay, as far as the
// new values let them. Those of HTTP/2 go by what was in force when they were made.
func (c *Client) Configure(cfg Config) {
	cfg = cfg.orDefaults()
	c.cfg.Store(&cfg)
}

// Close ends all connections that are kept. Those with a request end with it.
func (c *Client) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.mu.Unlock()
	close(c.stop)
	c.wg.Wait()
	c.forget(func(key) bool { return true })
}

// Forget ends the connections that are kept to an endpoint which has gone. Requests on
// the way go on.
func (c *Client) Forget(addr netip.AddrPort) {
	c.forget(func(k key) bool { return k.addr == addr })
}

func (c *Client) forget(gone func(key) bool) {
	c.mu.Lock()
	var h1s []*endpoint
	var h2s []*h2endpoint
	for k, e := range c.endpoints {
		if gone(k) {
			delete(c.endpoints, k)
			h1s = append(h1s, e)
		}
	}
	for k, e := range c.h2 {
		if gone(k) {
			delete(c.h2, k)
			h2s = append(h2s, e)
		}
	}
	c.mu.Unlock()
	for _, e := range h1s {
		e.end()
	}
	for _, e := range h2s {
		e.end()
	}
}

// tidy closes what has been kept for too long, every quarter of that time.
func (c *Client) tidy() {
	for {
		timer := time.NewTimer(max(c.cfg.Load().IdleTimeout/4, 10*time.Millisecond))
		select {
		case <-c.stop:
			timer.Stop()
			return
		case now := <-timer.C:
			c.sweep(now)
		}
	}
}

func (c *Client) sweep(now time.Time) {
	c.mu.RLock()
	all := make([]*endpoint, 0, len(c.endpoints))
	for _, e := range c.endpoints {
		all = append(all, e)
	}
	c.mu.RUnlock()
	for _, e := range all {
		e.sweep(now)
	}
	c.mu.Lock()
	for k, e := range c.endpoints {
		if e.unused(now) {
			delete(c.endpoints, k)
			e.gone.Store(true)
		}
	}
	var ended []*h2endpoint
	for k, e := range c.h2 {
		if e.unused(now) {
			delete(c.h2, k)
			ended = append(ended, e)
		}
	}
	c.mu.Unlock()
	for _, e := range ended {
		e.end()
	}
}

// endpoint returns the pool for k, a new one if need be.
func (c *Client) endpoint(k key) *endpoint {
	c.mu.RLock()
	e := c.endpoints[k]
	c.mu.RUnlock()
	if e != nil {
		return e
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e = c.endpoints[k]; e == nil {
		e = &endpoint{client: c, key: k}
		e.gone.Store(c.closed)
		e.used.Store(time.Now().UnixNano())
		c.endpoints[k] = e
	}
	return e
}

// Do asks one endpoint and returns once the head of its answer is there; a 103 before it goes to x.Interim. A
// failure is an *Error. The
// Body of the answer, if there is one, has to be closed; it reads from the connection, and after its
// end the connection serves others. Do adds a Try to x.
//
// An answer with status 101 comes only if x asks for an upgrade; its Body is for Tunnel.
//
// If x has a body that is not a *bytes.Reader, it may be read by another goroutine until the Body of
// the answer is closed. If that body has a method Interrupt(), Close calls it when the answer has come to
// its end before the body has, and waits for the reading to end.
func (c *Client) Do(x *exchange.Exchange, to Target) (*exchange.Response, error) {
	c.Stats.Requests.Add(1)
	if to.Timeouts.Connect <= 0 {
		to.Timeouts.Connect = c.cfg.Load().Timeouts.Connect
	}
	if to.Timeouts.Read <= 0 {
		to.Timeouts.Read = c.cfg.Load().Timeouts.Read
	}
	if to.Timeouts.Write <= 0 {
		to.Timeouts.Write = c.cfg.Load().Timeouts.Write
	}
	began := time.Now()
	x.Tries = append(x.Tries, exchange.Try{Endpoint: to.Addr})
	t := trial{client: c, x: x, to: to, began: began, try: len(x.Tries) - 1}
	var resp *exchange.Response
	var err *Error
	if to.Protocol == HTTP || to.Protocol == HTTPS {
		resp, err = t.h1()
	} else {
		resp, err = t.h2()
	}
	if err != nil {
		err.blame(x.Context)
		if err.Canceled {
			c.Stats.Aborted.Add(1)
		}
		t.record().Total = time.Since(began)
		t.record().Err = err
		return nil, err
	}
	t.record().Status = resp.Status
	return resp, nil
}

// A trial is one try at one endpoint.
type trial struct {
	client *Client
	x      *exchange.Exchange
	to     Target
	began  time.Time
	try    int // in x.Tries
}

// record is the Try in the Exchange, which may have moved in memory since.
func (t *trial) record() *exchange.Try { return &t.x.Tries[t.try] }
