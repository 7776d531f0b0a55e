package userspace

import (
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// How long, and of how many addresses, it is remembered by which device they are
// reached.
const (
	linkAge  = 10 * time.Second
	maxLinks = 1 << 16
)

// links knows by which device addresses are reached. It is safe for concurrent use.
type links struct {
	mu    sync.Mutex
	known map[netip.Addr]knownLink
}

type knownLink struct {
	index int // zero if there is no route
	asked time.Time
}

func newLinks() *links { return &links{known: make(map[netip.Addr]knownLink)} }

// same reports whether both addresses are reached by one and the same device: the
// bridge that has the pods of a node, for example.
func (l *links) same(a, b netip.Addr) bool {
	at := l.of(a)
	return at != 0 && at == l.of(b)
}

func (l *links) of(a netip.Addr) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if k, ok := l.known[a]; ok && now.Sub(k.asked) < linkAge {
		return k.index
	}
	if len(l.known) >= maxLinks {
		clear(l.known)
	}
	k := knownLink{asked: now}
	if routes, err := netlink.RouteGet(a.AsSlice()); err == nil && len(routes) > 0 {
		k.index = routes[0].LinkIndex
	}
	l.known[a] = k
	return k.index
}
