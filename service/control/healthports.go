package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/fairlead-project/fairlead/service"
)

// HealthPorts answers on the health-check node ports of Services: a load balancer
// learns there whether this node has an endpoint of its own. It answers 200 if
// there is one, the node keeps up with changes and fairlead is not about to end,
// else 503, on every path and method, as kube-proxy does.
//
// Where there are several node addresses to listen on, each has a listener of
// its own. Sync and Close must not be called concurrently.
type HealthPorts struct {
	health    *Health
	log       *slog.Logger
	listeners map[netip.AddrPort]*healthListener
	serving   sync.WaitGroup
}

// A healthListener answers for one address and port, whichever Service it
// belongs to at the moment.
type healthListener struct {
	server *http.Server
	port   atomic.Pointer[service.HealthPort]
	broken atomic.Bool // it serves no more, though nobody closed it
}

// NewHealthPorts returns HealthPorts that answer for a node of the given health.
func NewHealthPorts(health *Health, log *slog.Logger) *HealthPorts {
	return &HealthPorts{health: health, log: log, listeners: make(map[netip.AddrPort]*healthListener)}
}

// Sync listens where snap says, at the addresses Node.PortAddrs allows, stops
// listening elsewhere and takes over the counts. A port that cannot be opened is
// a Problem of its Service, and is tried again by the next Sync.
func (h *HealthPorts) Sync(snap *service.Snapshot) []service.Problem {
	want := make(map[netip.AddrPort]*service.HealthPort)
	var problems []service.Problem
	for i := range snap.Health {
		p := &snap.Health[i]
		for _, addr := range listenAddrs(&snap.Node, p.Family) {
			at := netip.AddrPortFrom(addr, p.Port)
			if first := want[at]; first != nil {
				problems = append(problems, bindProblem(p, at, fmt.Errorf("taken by Service %s", first.Service)))
				continue
			}
			want[at] = p
		}
	}
	// Closing comes first: a wildcard address and the single ones collide.
	for at, l := range h.listeners {
		if want[at] == nil || l.broken.Load() {
			_ = l.server.Close()
			delete(h.listeners, at)
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(want), netip.AddrPort.Compare) {
		if err := h.serve(at, want[at]); err != nil {
			problems = append(problems, bindProblem(want[at], at, err))
		}
	}
	return problems
}

// Close stops listening and waits until every listener has ended.
func (h *HealthPorts) Close() {
	for at, l := range h.listeners {
		_ = l.server.Close()
		delete(h.listeners, at)
	}
	h.serving.Wait()
}

// serve makes the listener at the given address answer for p.
func (h *HealthPorts) serve(at netip.AddrPort, p *service.HealthPort) error {
	if l := h.listeners[at]; l != nil {
		l.port.Store(p)
		return nil
	}
	network := "tcp4"
	if p.Family == service.IPv6 {
		network = "tcp6"
	}
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), network, at.String())
	if err != nil {
		return err
	}
	l := &healthListener{}
	l.port.Store(p)
	l.server = newServer(h.handler(l), h.log, 0)
	h.listeners[at] = l
	h.serving.Go(func() {
		if err := l.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			l.broken.Store(true)
			h.log.Error("health-check node port broke", "addr", at, "err", err)
		}
	})
	return nil
}

// A portBody is the answer of a health-check node port, field by field that of
// kube-proxy.
type portBody struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints int  `json:"localEndpoints"`
	Healthy        bool `json:"serviceProxyHealthy"`
}

func (h *HealthPorts) handler(l *healthListener) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p := l.port.Load()
		b := portBody{LocalEndpoints: p.Local, Healthy: h.health.serving()}
		b.Service.Namespace, b.Service.Name = p.Service.Namespace, p.Service.Name
		text, err := json.MarshalIndent(b, "", "\t")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		code := http.StatusServiceUnavailable
		if b.LocalEndpoints > 0 && b.Healthy {
			code = http.StatusOK
		}
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(p.Local))
		writeJSON(w, code, text)
	})
}

// listenAddrs returns where the node answers on node ports of family f: the
// wildcard if everywhere, else each address of its own that PortAddrs holds.
// Link-local addresses are left out: they mean nothing without an interface.
func listenAddrs(n *service.Node, f service.Family) []netip.Addr {
	var addrs []netip.Addr
	for _, prefix := range n.PortAddrs[f] {
		if prefix.Bits() == 0 {
			return []netip.Addr{f.Any()}
		}
		for _, a := range n.Addrs {
			if prefix.Contains(a) && !a.IsLinkLocalUnicast() {
				addrs = append(addrs, a)
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// ReasonHealthPort is the Reason of the Problem that a health-check node port
// cannot be listened on, which is this node's own trouble. It is kube-proxy's.
const ReasonHealthPort = "FailedToStartServiceHealthcheck"

func bindProblem(p *service.HealthPort, at netip.AddrPort, err error) service.Problem {
	return service.Problem{
		Object:  service.Object{Kind: "Service", Name: p.Service},
		Reason:  ReasonHealthPort,
		Field:   "spec.healthCheckNodePort",
		Message: fmt.Sprintf("cannot answer health checks at %s: %v", at, err),
	}
}
