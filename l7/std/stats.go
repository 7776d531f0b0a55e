package std

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/fairlead-project/fairlead/l7/stats"
)

// Stats counts what an Engine sees.
type Stats struct {
	Active  atomic.Int64 // requests now
	Tunnels atomic.Int64 // now
	Panics  atomic.Uint64
	Refused stats.Reasons // requests of HTTP/2; those of HTTP/1.1 are counted by the Gate

	mu        sync.Mutex
	listeners []*ListenerStats
}

// ListenerStats counts the connections of one listener. All of it only grows but for Open.
type ListenerStats struct {
	Name, Address string
	Secure        bool

	Accepted, AcceptErrors atomic.Uint64
	Shed                   atomic.Uint64 // refused because there were too many
	PerClient              atomic.Uint64 // refused because the client had too many
	BadProxy               atomic.Uint64 // without the PROXY header that was wanted, or with one from a stranger
	HTTP1, HTTP2           atomic.Uint64
	Passthrough            atomic.Uint64 // whose TLS is a backend's
	Open                   atomic.Int64

	// Ended because there were too many, or nearly.
	Evicted      atomic.Uint64 // idle, for a newcomer
	CutIdle      atomic.Uint64
	CutHead      atomic.Uint64 // a head took too long
	CutHandshake atomic.Uint64
}

// Listeners returns the listeners there have been, in order of Serve.
func (s *Stats) Listeners() []*ListenerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*ListenerStats(nil), s.listeners...)
}

func (s *Stats) listener(name string, l net.Listener, secure bool) *ListenerStats {
	out := &ListenerStats{Name: name, Address: l.Addr().String(), Secure: secure}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, out)
	return out
}

// open is how many connections there are at all listeners.
func (s *Stats) open() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, l := range s.listeners {
		n += l.Open.Load()
	}
	return n
}
