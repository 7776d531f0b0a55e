package udp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// An Engine proxies datagrams. All methods are safe for concurrent use, except
// that only one of Serve and Close may be called, and once.
type Engine struct {
	cfg      Config
	addrs    []netip.AddrPort
	workers  []*worker
	sessions atomic.Int64

	mu     sync.Mutex
	single map[netip.AddrPort]*worker // who has what Listen has opened
	turn   int                        // of workers, for the next
}

// Open opens the listeners. From then on the kernel keeps what arrives, until
// Serve deals with it.
func Open(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("UDP proxy: %w", err)
	}
	e := &Engine{cfg: filled(cfg), single: make(map[netip.AddrPort]*worker)}
	defer e.closeInherited()
	workers := 0
	for _, s := range cfg.Inherited {
		workers = max(workers, s.Worker+1)
	}
	set(&workers, e.cfg.Workers)
	e.cfg.Workers = workers
	for _, l := range cfg.Listeners {
		e.addrs = append(e.addrs, l.Addr)
	}
	for range e.cfg.Workers {
		w, err := e.newWorker()
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.workers = append(e.workers, w)
	}
	return e, nil
}

// inherited returns the socket for a listener of the worker of a number, if there is
// one, which is the caller's then.
func (e *Engine) inherited(worker int, l Listener) (int, bool) {
	for i, s := range e.cfg.Inherited {
		if s.FD != closedSocket && s.Worker == worker && s.Addr == l.Addr && s.Origin == l.Origin {
			e.cfg.Inherited[i].FD = closedSocket
			return s.FD, true
		}
	}
	return closedSocket, false
}

// closeInherited closes those sockets that nobody wants.
func (e *Engine) closeInherited() {
	for _, s := range e.cfg.Inherited {
		if s.FD != closedSocket {
			_ = unix.Close(s.FD) // somebody else's
		}
	}
	e.cfg.Inherited = nil
}

func filled(c Config) Config {
	set(&c.Workers, min(4, runtime.GOMAXPROCS(0)))
	set(&c.MaxSessions, maxSessions())
	set(&c.Attempts, 4)
	set(&c.IdleTimeout, 120*time.Second)
	set(&c.NewTimeout, 30*time.Second)
	set(&c.EvictAfter, 5*time.Second)
	set(&c.ReceiveBuffer, 4<<20)
	return c
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func maxSessions() int {
	const most = 65536
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil || l.Cur/2 > most {
		return most
	}
	return max(1, int(l.Cur/2))
}

// Addrs returns the addresses of Config.Listeners, in their order.
func (e *Engine) Addrs() []netip.AddrPort { return append([]netip.AddrPort(nil), e.addrs...) }

// Serve proxies until ctx is done, and closes everything. Its error is nil then.
func (e *Engine) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(e.workers))
	var wg sync.WaitGroup
	for i, w := range e.workers {
		wg.Go(func() {
			defer cancel() // one for all
			errs[i] = w.run()
		})
	}
	<-ctx.Done()
	var stopErrs []error
	for _, w := range e.workers {
		stopErrs = append(stopErrs, w.stop())
	}
	wg.Wait()
	return errors.Join(append(append(errs, stopErrs...), e.Close())...)
}

// Close closes everything. It is for an Engine that is not served.
func (e *Engine) Close() error {
	var errs []error
	for _, w := range e.workers {
		w.mu.Lock()
		errs = append(errs, w.close())
		w.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Retarget closes the sockets that are connected to the endpoint, of sessions
// whose Flow matches; nil matches all. When it returns, no answer of the endpoint
// is delivered any more in these sessions, and their next datagrams go to what the
// Handler names then. It returns how many there were. The time it takes grows with
// the sessions of the endpoint, not with all.
func (e *Engine) Retarget(endpoint netip.AddrPort, match func(Flow) bool) int {
	n := 0
	for _, w := range e.workers {
		w.mu.Lock()
		for s := range w.atEndpoint(endpoint) {
			if match == nil || match(s.flow) {
				w.end(s, Moved)
				n++
			}
		}
		w.mu.Unlock()
	}
	return n
}

// EndFrontends ends the sessions of the frontends that match, and returns how many
// there were. The time it takes grows with the frontends that have sessions.
func (e *Engine) EndFrontends(match func(frontend netip.AddrPort) bool) int {
	n := 0
	for _, w := range e.workers {
		w.mu.Lock()
		n += w.endFrontends(match)
		w.mu.Unlock()
	}
	return n
}

// Stats returns the numbers of e since Open.
func (e *Engine) Stats() Stats {
	var sum Stats
	for _, w := range e.workers {
		w.mu.Lock()
		sum.add(&w.stats)
		w.mu.Unlock()
	}
	return sum
}
