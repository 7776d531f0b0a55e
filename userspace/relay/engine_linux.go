package relay

import (
	"cmp"
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

// An Engine relays connections. Make one with New.
type Engine struct {
	handler        Handler
	transparent    bool
	connectTimeout time.Duration
	idleTimeout    time.Duration
	sweepEvery     time.Duration // zero for never
	keepAlive      []option
	upstream       []option
	maxConns       int64
	maxPipes       int64
	born           time.Time

	workers []*worker
	active  atomic.Int64 // connections
	pipes   atomic.Int64
	turn    atomic.Uint32 // of workers, to take what another Engine gives

	mu        sync.Mutex
	listening atomic.Pointer[[]*listener] // never changed in place; nil is a free place
	at        map[netip.AddrPort]*listener
	free      []int  // places of listening
	gen       uint32 // of the listener made last
	state     runState
	quit      context.CancelFunc // of Run
	done      chan struct{}      // closed when Run has ended
}

// A runState is where an Engine is in its life.
type runState uint8

const (
	made runState = iota
	running
	closed
)

// New returns an Engine without listeners. It has descriptors, which Run or Close
// give back.
func New(c Config) (*Engine, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	e := &Engine{
		handler: c.Handler, transparent: c.Transparent,
		connectTimeout: cmp.Or(c.ConnectTimeout, defaultConnectTimeout),
		idleTimeout:    c.IdleTimeout, keepAlive: keepAliveOptions(cmp.Or(c.KeepAlive, defaultKeepAlive)),
		maxConns: int64(c.MaxConns), maxPipes: int64(cmp.Or(c.MaxPipes, defaultMaxPipes)),
		born: time.Now(), done: make(chan struct{}),
		at: make(map[netip.AddrPort]*listener),
	}
	if e.sweepEvery = c.IdleTimeout / sweeps; len(e.keepAlive) > 0 && e.sweepEvery == 0 {
		e.sweepEvery = probeEvery
	}
	e.upstream = streamOptions()
	if c.Mark != 0 {
		e.upstream = append(e.upstream, option{"SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, int32(c.Mark)})
	}
	e.listening.Store(new([]*listener))
	for range cmp.Or(c.Workers, runtime.GOMAXPROCS(0)) {
		w, err := newWorker(e)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.workers = append(e.workers, w)
	}
	return e, nil
}

// Run relays until ctx is done or Close is called; then it resets all connections
// and gives back all descriptors. It may be called once.
func (e *Engine) Run(ctx context.Context) error {
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	e.mu.Lock()
	if e.state != made {
		e.mu.Unlock()
		return errors.New("relay: an Engine runs once")
	}
	e.state, e.quit = running, quit
	e.mu.Unlock()

	errs := make([]error, len(e.workers))
	var wg sync.WaitGroup
	for i, w := range e.workers {
		wg.Go(func() {
			defer quit() // one that fails ends the others
			errs[i] = w.run()
		})
	}
	<-ctx.Done()
	for _, w := range e.workers {
		w.post(message{kind: stop})
	}
	wg.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.release()
	close(e.done)
	return errors.Join(errs...)
}

// Close ends Run and waits for it. It gives back the descriptors of an Engine that
// does not run. It may be called more than once.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.state == running {
		e.quit()
		e.mu.Unlock()
		<-e.done
		return nil
	}
	defer e.mu.Unlock()
	e.release()
	return nil
}

// release closes everything, once. The caller holds mu, and no worker runs.
func (e *Engine) release() {
	e.state = closed
	for _, l := range e.at {
		closeFD(l.fd)
	}
	clear(e.at)
	e.free = nil
	e.listening.Store(new([]*listener))
	for _, w := range e.workers {
		w.close()
	}
}

// Counters may be called at any time. Different counters may be of slightly
// different times.
func (e *Engine) Counters() Counters {
	var c Counters
	for _, w := range e.workers {
		c.add(&w.count)
	}
	return c
}
