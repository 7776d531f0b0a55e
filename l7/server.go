package l7

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/fairlead-project/fairlead/l7/accesslog"
	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/l7/policy"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/l7/stats"
	"github.com/fairlead-project/fairlead/l7/std"
	"github.com/fairlead-project/fairlead/l7/upstream"
	"github.com/fairlead-project/fairlead/service"
)

// A Server serves Ingresses. It follows objects as a kube.Sink and endpoints as a service.Dataplane, and answers
// requests as the std.Handler of its Engine. All methods may be called by any goroutine.
type Server struct {
	cfg     Config
	engine  *std.Engine
	gates   *h1.Stats
	client  *upstream.Client
	checker *balance.Checker
	shared  *policy.Shared
	budget  balance.Budget
	certs   *certs.Table
	tickets *certs.Tickets
	limiter *certs.Limiter

	serverTLS *tls.Config // of the engine's settings; s.mu guards it

	// What requests look at.
	table       atomic.Pointer[route.Table[*rule]]
	process     atomic.Pointer[process]
	passthrough atomic.Pointer[map[string]*passage]
	fallback    *destination // of cfg.DefaultBackend, or nil
	plainTLS    *tls.Config

	wake, names chan struct{}
	waiting     struct {
		sync.Mutex
		changes []kube.Change
		synced  bool
	}

	mu       sync.Mutex // guards all below, and changes of what requests look at
	builder  *ingress.Builder
	backends map[ingress.BackendKey]*backend
	ports    map[service.Name][]*service.Port
	external map[service.Name]*service.External
	secrets  certificates
	last     *service.Snapshot
	globals  *annotation.Globals // that the builder goes by
	headers  [2]service.Name     // the ConfigMaps that the ConfigMap of defaults named when it was read last
	key      []byte              // that all nodes share, or nil
	through  map[string]ingress.BackendKey
	models   map[string]*ingress.HostModel
	missing  missing
	served   map[service.Name]struct{}

	// upstreams are the ways in which TLS is spoken to backends, as long as a rule needs them.
	upstreams map[tlsKey]weak.Pointer[tls.Config]

	objects, endpoints atomic.Bool // have been handed over once
	ready              chan struct{}
	compiled           compiled

	started  time.Time
	stats    *stats.Stats
	unrouted *stats.Rule // of requests that no rule is about
	access   *accesslog.Log
	ejected  atomic.Uint64 // endpoints of Pools that are gone
}

// compiled counts what has become of changes.
type compiled struct {
	generation atomic.Uint64
	last       atomic.Int64 // time of the last commit, in Unix nanoseconds
	took       atomic.Int64 // it, in nanoseconds
}

// A process is what the ConfigMap of defaults says about the process itself, as far as requests look at it.
type process struct {
	globals   annotation.Globals
	forwarder *policy.Forwarder
}

// New returns a Server that serves nothing yet. Run has to be called.
func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("l7: %w", err)
	}
	if c.Ingress.Globals == nil {
		globals := annotation.DefaultGlobals()
		globals.SSLPassthrough = c.Passthrough
		c.Ingress.Globals = &globals
	}
	s := &Server{
		cfg: c, gates: &h1.Stats{},
		shared: policy.NewShared(policy.SharedConfig{}), certs: certs.NewTable(), limiter: certs.NewLimiter(0, 0),
		wake: make(chan struct{}, 1), names: make(chan struct{}, 1), ready: make(chan struct{}),
		builder: ingress.NewBuilder(c.Ingress), backends: make(map[ingress.BackendKey]*backend), globals: c.Ingress.Globals,
		through: make(map[string]ingress.BackendKey), models: make(map[string]*ingress.HostModel),
		missing: newMissing(), secrets: newCertificates(), upstreams: make(map[tlsKey]weak.Pointer[tls.Config]),
		plainTLS: upstream.TLSConfig(upstream.TLSOptions{}),
		started:  time.Now(), stats: stats.New(),
	}
	s.unrouted = s.stats.Rule(stats.Key{})
	s.checker = balance.NewChecker(balance.HTTPProber((&net.Dialer{}).DialContext))
	globals := *c.Ingress.Globals
	var err error
	if s.tickets, err = certs.NewTickets("clients without certificates", nil); err != nil {
		return nil, fmt.Errorf("l7: %w", err)
	}
	s.client = upstream.New(keptAs(&globals))
	s.table.Store(&route.Table[*rule]{})
	s.passthrough.Store(&map[string]*passage{})
	if c.DefaultBackend.Name != "" {
		s.fallback = s.newFallback()
	}
	if s.secrets.own, err = certs.SelfSigned(time.Now()); err != nil {
		return nil, fmt.Errorf("l7: make a certificate: %w", err)
	}
	if err := s.configure(globals); err != nil {
		return nil, err
	}
	return s, nil
}

// configure puts the settings of the process in force.
func (s *Server) configure(g annotation.Globals) error {
	forwarding := policy.Forwarding{Append: g.Clients.FullForwardedFor, Source: g.Clients.ForwardedForHeader, Forwarded: g.Clients.Forwarded}
	if g.Clients.UseForwardedHeaders {
		forwarding.Trust = g.Clients.Trusted
	}
	forwarder, err := policy.NewForwarder(forwarding)
	if err != nil {
		return fmt.Errorf("l7: %w", err)
	}
	if err := s.openLog(&g); err != nil {
		return fmt.Errorf("l7: access log: %w", err)
	}
	settings := s.settings(g)
	s.process.Store(&process{globals: g, forwarder: forwarder})
	s.setDefault()
	old := s.serverTLS
	s.serverTLS = settings.TLS
	if s.engine == nil {
		s.engine = std.New(std.Config{
			Handler: s, Log: s.cfg.Log, Settings: settings, Limiter: s.limiter,
			Passthrough: s.passthroughTo(), MaxConns: s.cfg.MaxConns, MaxPerClient: s.cfg.MaxPerClient,
			Handshook: s.handshook, NetHTTP: s.cfg.NetHTTP,
		})
		return nil
	}
	s.engine.Configure(settings)
	s.client.Configure(keptAs(&g))
	s.tickets.Detach(old)
	return nil
}

// keptAs is how connections to backends are kept.
func keptAs(g *annotation.Globals) upstream.Config {
	k := &g.Keepalive
	return upstream.Config{Idle: k.Connections, IdleTimeout: k.Timeout, MaxRequests: k.Requests, MaxAge: k.Age}
}

func (s *Server) settings(g annotation.Globals) std.Settings {
	gate := h1.Defaults()
	gate.Stats = s.gates
	gate.Limits = h1.Limits{Line: int(g.Listeners.MaxLine), Head: int(g.Listeners.MaxHead)}
	gate.Underscores = g.Clients.Underscores
	gate.HeadTimeout, gate.BodyGap = g.Listeners.HeadTimeout, g.Listeners.BodyTimeout
	gate.IdleTimeout, gate.MaxRequests = g.Listeners.Idle, g.Listeners.Requests
	c := certs.Settings{
		MinVersion: g.TLS.MinVersion, MaxVersion: g.TLS.MaxVersion, Ciphers: g.TLS.Ciphers,
		NoHTTP2: !g.Listeners.HTTP2, Limiter: s.limiter,
	}
	if g.TLS.Tickets {
		c.Tickets = s.tickets
	}
	config, warnings := certs.ServerConfig(c, s.certs)
	for _, w := range warnings {
		s.cfg.Log.Warn("a TLS setting has no effect", "because", w)
	}
	out := std.Settings{Gate: gate, Idle: g.Listeners.Idle, TLS: config, Streams: g.Listeners.MaxConcurrent, ProxyTimeout: g.Clients.ProxyProtocolTimeout}
	if g.Clients.UseForwardedHeaders {
		out.Forwarders = g.Clients.Trusted
	}
	if g.Clients.ProxyProtocol {
		out.Proxy = append(out.Proxy, g.Clients.Trusted...)
		if out.Proxy == nil {
			s.cfg.Log.Warn("PROXY protocol is asked for, but no source of it is trusted (proxy-real-ip-cidr): nobody will be served")
			out.Proxy = []netip.Prefix{}
		}
	}
	return out
}

func (s *Server) handshook(state *tls.ConnectionState) {
	if state == nil {
		s.stats.Handshakes.Failed()
	} else {
		s.stats.Handshakes.Done(state)
	}
}

// Engine returns what accepts clients.
func (s *Server) Engine() *std.Engine { return s.engine }

// Complete is closed when everything that exists has been put in force once.
func (s *Server) Complete() <-chan struct{} { return s.ready }

// Run does what is to be done in the background until ctx is done, and returns nil then. Afterwards requests are
// still answered, by what was in force last.
func (s *Server) Run(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tasks.Go(func() { s.keepPace(ctx) })
	tasks.Go(func() { s.follow(ctx) })
	tasks.Go(func() { _ = s.checker.Run(ctx) })
	tasks.Go(func() { s.resolveNames(ctx) })
	tasks.Go(func() { s.watchDates(ctx) })
	tasks.Go(func() { s.forgetStats(ctx) })
	tasks.Go(func() { s.writeLog(ctx) })
	if err := s.tickets.Run(ctx); err != nil {
		return fmt.Errorf("l7: %w", err)
	}
	<-ctx.Done()
	return nil
}

// Close gives up the connections to backends.
func (s *Server) Close() {
	s.client.Close()
	s.shared.Close()
}

// Update is of kube.Sink.
func (s *Server) Update(ctx context.Context, changes []kube.Change) error {
	s.waiting.Lock()
	s.waiting.changes = append(s.waiting.changes, changes...)
	s.waiting.Unlock()
	s.poke()
	return ctx.Err()
}

// Synced is of kube.Sink.
func (s *Server) Synced() {
	s.waiting.Lock()
	s.waiting.synced = true
	s.waiting.Unlock()
	s.poke()
}

func (s *Server) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// follow puts changes of objects in force as they come.
func (s *Server) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		began := time.Now()
		s.takeChanges()
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(max(minPace, paceCost*time.Since(began)), maxPace)):
		}
	}
}

func (s *Server) takeChanges() {
	s.waiting.Lock()
	changes, synced := s.waiting.changes, s.waiting.synced
	if !synced {
		s.waiting.Unlock()
		return // half of what there is would be served as if it were all
	}
	s.waiting.changes = nil
	s.waiting.Unlock()
	if len(changes) > 0 {
		s.apply(changes)
	}
	if synced && !s.objects.Swap(true) {
		s.checkComplete()
	}
}

// Sync is of service.Dataplane: it gives the Pools their endpoints. It never fails.
func (s *Server) Sync(_ context.Context, snap *service.Snapshot) (service.Report, error) {
	s.mu.Lock()
	changed := s.setEndpoints(snap)
	s.mu.Unlock()
	if !s.endpoints.Swap(true) {
		s.checkComplete()
	}
	return service.Report{Changed: changed}, nil
}

// Audit is of service.Dataplane. Nobody else changes what we hold.
func (s *Server) Audit(context.Context) (service.Report, error) { return service.Report{}, nil }

// Cleanup is of service.Dataplane. Nothing outlives the process.
func (s *Server) Cleanup(context.Context) error { return nil }

func (s *Server) checkComplete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.objects.Load() || !s.endpoints.Load() {
		return
	}
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
}

// Done is of std.Handler.
func (s *Server) Done(x *exchange.Exchange, d std.Done) {
	f := flightOf(x)
	s.stats.InFlight.Add(-1)
	if p := f.guard.panicked.Load(); p != nil {
		d.Panic, d.Stack = p.value, p.stack
	}
	if d.Panic != nil {
		s.stats.Panics.Add(1)
		s.cfg.Log.Error("a request ended in a panic", "host", x.Request.Host, "path", x.Request.RawPath,
			"panic", fmt.Sprint(d.Panic), "stack", string(d.Stack))
	}
	f.end(x)
	s.observe(x, f, d)
}
