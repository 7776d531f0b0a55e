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

	"github.com/fairlead-project/fairlead/service"
)

// backlog is how many clients may wait to be accepted at one listener. The kernel
// allows no more than net.core.somaxconn.
const backlog = 4096

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

	mu        sync.Mutex
	listening atomic.Pointer[[]*listener] // never changed in place
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

// Listen accepts connections to addr, of callers of this origin, and returns the
// address with the port that the kernel has chosen if that of addr is zero. IPv6
// listeners do not accept IPv4. It may be called while the Engine runs; those who
// connect before wait.
func (e *Engine) Listen(addr netip.AddrPort, origin service.Origin) (netip.AddrPort, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == closed {
		return netip.AddrPort{}, fmt.Errorf("listen on %v: %w", addr, ErrClosed)
	}
	fd, bound, err := e.openListener(addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("listen on %v: %w", addr, err)
	}
	old := e.listeners()
	l := &listener{fd: fd, index: len(old), origin: origin}
	list := append(old[:len(old):len(old)], l)
	e.listening.Store(&list)
	for _, w := range e.workers {
		if err := watch(w.epoll, fd, l.tag()); err != 0 {
			e.listening.Store(&old)
			closeFD(fd)
			return netip.AddrPort{}, fmt.Errorf("listen on %v: watch: %w", addr, err)
		}
	}
	return bound, nil
}

func (e *Engine) openListener(addr netip.AddrPort) (int32, netip.AddrPort, error) {
	fd, errno := openSocket(addr.Addr())
	if errno != 0 {
		return -1, netip.AddrPort{}, fmt.Errorf("open socket: %w", errno)
	}
	options := append(streamOptions(), option{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	options = append(options, e.keepAlive...)
	for _, o := range e.upstream {
		if o.name == "SO_MARK" {
			options = append(options, o)
		}
	}
	if addr.Addr().Is6() {
		options = append(options, option{"IPV6_V6ONLY", unix.SOL_IPV6, unix.IPV6_V6ONLY, 1})
	}
	if e.transparent {
		options = append(options, transparent(addr.Addr()))
	}
	err := setOptions(fd, options)
	var raw rawAddr
	if err == nil {
		raw.set(addr)
		if errno := bind(fd, &raw); errno != 0 {
			err = fmt.Errorf("bind: %w", errno)
		}
	}
	if err == nil {
		if err = unix.Listen(int(fd), backlog); err != nil {
			err = fmt.Errorf("listen: %w", err)
		}
	}
	if err == nil && localAddr(fd, &raw) != 0 {
		err = errors.New("the socket has no address")
	}
	if err != nil {
		closeFD(fd)
		return -1, netip.AddrPort{}, err
	}
	return fd, raw.get(), nil
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
	for _, l := range e.listeners() {
		closeFD(l.fd)
	}
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

func (e *Engine) listeners() []*listener { return *e.listening.Load() }
