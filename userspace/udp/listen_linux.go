package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/service"
)

// closedSocket is in the place of a listener that was closed.
const closedSocket = -1

// Listen opens one more listener and returns its address. Unlike those of
// Config.Listeners it has one socket, of one worker, and shares its port with nobody.
// It may be called at any time.
func (e *Engine) Listen(l Listener) (netip.AddrPort, error) {
	if !l.validAddr() || l.Origin >= service.NumOrigins {
		return netip.AddrPort{}, fmt.Errorf("listening at %v: neither an address nor an origin may be missing", l.Addr)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.workers[e.turn%len(e.workers)]
	at, err := w.listen(l)
	if err != nil {
		return netip.AddrPort{}, err
	}
	e.turn++
	e.single[at] = w
	return at, nil
}

// Unlisten closes a listener that Listen has opened, with the sessions of its address,
// and reports whether there was one. When it returns, the address is free, and who
// sends to it is refused.
func (e *Engine) Unlisten(addr netip.AddrPort) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.single[addr]
	if w == nil {
		return false
	}
	delete(e.single, addr)
	w.unlisten(addr)
	return true
}

func (w *worker) listen(l Listener) (netip.AddrPort, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.poller == nil {
		return netip.AddrPort{}, errors.New("listening: the proxy has ended")
	}
	i := slices.IndexFunc(w.listeners, func(l listener) bool { return l.fd == closedSocket })
	if i < 0 {
		i = len(w.listeners)
		w.listeners = append(w.listeners, listener{fd: closedSocket})
	}
	err := w.openAt(i, l, false)
	return w.listeners[i].Addr, err
}

// openAt opens a listener in a place of w.listeners. A shared one lets others have
// the same address.
func (w *worker) openAt(i int, l Listener, shared bool) error {
	fd, addr, err := openListener(l, w.cfg, shared)
	if err != nil {
		return err
	}
	l.Addr = addr
	return w.watchAt(i, l, fd)
}

// watchAt makes fd the listener in a place of w.listeners, and closes it if it cannot.
func (w *worker) watchAt(i int, l Listener, fd int) error {
	if err := w.poller.watch(fd, ^int32(i), 0); err != nil {
		w.closeSocket(fd)
		return err
	}
	w.listeners[i] = listener{l, fd}
	if !w.cfg.Transparent {
		w.replies[l.Addr] = &reply{frontend: l.Addr, fd: fd, sessions: newRing(), lasting: true}
	}
	return nil
}

func (w *worker) unlisten(addr netip.AddrPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.listeners, func(l listener) bool { return l.fd != closedSocket && l.Addr == addr })
	if i < 0 {
		return // closed with all others
	}
	if r := w.replies[addr]; r != nil && r.lasting {
		for s := range r.sessions.all() {
			w.end(s, Gone)
		}
		delete(w.replies, addr)
	}
	w.closeSocket(w.listeners[i].fd)
	w.listeners[i] = listener{fd: closedSocket}
}
