package relay

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// backlog is how many clients may wait to be accepted at one listener. The kernel
// allows no more than net.core.somaxconn.
const backlog = 4096

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
	if err := e.enlist(fd, bound, origin); err != nil {
		return netip.AddrPort{}, err
	}
	return bound, nil
}

// enlist makes fd a listener, and closes it if it cannot. The caller holds mu.
func (e *Engine) enlist(fd int32, addr netip.AddrPort, origin service.Origin) error {
	e.gen++
	l := &listener{fd: fd, gen: e.gen, origin: origin, addr: addr}
	e.place(l)
	for _, w := range e.workers {
		if err := watch(w.epoll, fd, l.tag()); err != 0 {
			e.retire(l)
			return fmt.Errorf("listen on %v: watch: %w", addr, err)
		}
	}
	return nil
}

// Unlisten ends what Listen began at an address that it has returned, and reports
// whether it had. When it returns, who connects is refused, and who was not accepted
// yet is reset; connections that were are kept. The address may be listened on again
// at once. It may be called while the Engine runs.
func (e *Engine) Unlisten(addr netip.AddrPort) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.at[addr]
	if l == nil {
		return false
	}
	stopListening(l.fd)
	e.retire(l)
	return true
}

// place finds l a place among the listeners. The caller holds mu.
func (e *Engine) place(l *listener) {
	list := e.listeners()
	if n := len(e.free); n > 0 {
		l.index, e.free = e.free[n-1], e.free[:n-1]
		list = slices.Clone(list)
		list[l.index] = l
	} else {
		// What workers have got does not reach as far.
		l.index, list = len(list), append(list, l)
	}
	e.listening.Store(&list)
	e.at[l.addr] = l
}

// retire ends a listener that has a place. Its descriptor is closed when no worker
// uses it any more: before, another socket could get the number. The caller holds mu.
func (e *Engine) retire(l *listener) {
	list := slices.Clone(e.listeners())
	list[l.index] = nil
	e.listening.Store(&list)
	e.free = append(e.free, l.index)
	delete(e.at, l.addr)
	l.holders.Store(int32(len(e.workers)))
	for _, w := range e.workers {
		if !w.post(message{kind: forget, l: l}) {
			l.letGo()
		}
	}
}

func (e *Engine) listeners() []*listener { return *e.listening.Load() }

// listener returns the listener in a place if it still is the one of gen, else nil.
func (e *Engine) listener(index int, gen uint32) *listener {
	list := e.listeners()
	if index >= len(list) || list[index] == nil || list[index].gen != gen {
		return nil
	}
	return list[index]
}

// eachListener yields the listeners there are.
func (e *Engine) eachListener() iter.Seq[*listener] {
	return func(yield func(*listener) bool) {
		for _, l := range e.listeners() {
			if l != nil && !yield(l) {
				return
			}
		}
	}
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
