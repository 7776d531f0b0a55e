package l7

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A Resolver asks DNS for addresses.
type Resolver func(ctx context.Context, host string) ([]netip.Addr, error)

const (
	askAgain     = 5 * time.Second // how often a name is looked up
	askTime      = 3 * time.Second // how long a lookup may take
	askTogether  = 16              // lookups at a time
	defaultHTTP  = 80
	maxAddresses = 64 // of one name
)

// An externalName is where a Service of type ExternalName leads.
type externalName struct {
	host string
	port uint16
}

// resolveExternal makes b lead to a DNS name. The addresses it has are kept until
// the new name has been looked up. s.mu is held.
func (s *Server) resolveExternal(b *backend, e *service.External, old *externalName) {
	port := uint16(b.key.Port.Number)
	for _, p := range e.Ports {
		if b.key.Port.Name != "" && p.Name == b.key.Port.Name || b.key.Port.Name == "" && port == 0 || p.Number == port {
			port = p.Number
			b.app.Store(uint32(appProtocol(p.AppProtocol)))
			break
		}
	}
	if port == 0 && b.key.Port.Name != "" {
		b.trouble = trouble{"PortNotFound", "Service " + e.Service.String() + " of type ExternalName has no port " + b.key.Port.Name}
		b.pool.Set(nil, nil)
		return
	}
	if port == 0 {
		port = defaultHTTP
	}
	b.name = &externalName{host: e.Host, port: port}
	if old != nil && *old == *b.name {
		return
	}
	b.addrs = nil
	select {
	case s.names <- struct{}{}:
	default:
	}
}

// resolveNames looks all names up again and again.
func (s *Server) resolveNames(ctx context.Context) {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.names:
		}
		named := s.named()
		var group sync.WaitGroup
		turns := make(chan struct{}, askTogether)
		for b, n := range named {
			turns <- struct{}{}
			group.Go(func() {
				defer func() { <-turns }()
				s.lookUp(ctx, b, n)
			})
		}
		group.Wait()
	}
}

// named returns the backends that are names.
func (s *Server) named() map[*backend]externalName {
	list := map[*backend]externalName{}
	for _, b := range s.pools() {
		s.mu.Lock()
		if b.name != nil {
			list[b] = *b.name
		}
		s.mu.Unlock()
	}
	return list
}

// lookUp gives b the addresses of n, unless it leads elsewhere by then. What cannot be looked up keeps the addresses that it had
// under that name; those of another are not kept any longer.
func (s *Server) lookUp(ctx context.Context, b *backend, n externalName) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	resolve := s.cfg.Resolve
	if resolve == nil {
		resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	addrs, err := resolve(ctx, n.host)
	if err != nil || len(addrs) == 0 {
		s.cfg.Log.Warn("the name of a Service cannot be resolved", "service", b.key.Service, "name", n.host, "err", err)
		addrs = nil
	}
	eps := make([]service.Endpoint, 0, len(addrs))
	for _, a := range addrs[:min(len(addrs), maxAddresses)] {
		eps = append(eps, service.Endpoint{Addr: netip.AddrPortFrom(a.Unmap(), n.port)})
	}
	slices.SortFunc(eps, func(a, b service.Endpoint) int { return a.Addr.Compare(b.Addr) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.name == nil || *b.name != n {
		return
	}
	if len(eps) > 0 {
		b.addrs = eps
	}
	b.pool.Set(b.addrs, nil)
}
