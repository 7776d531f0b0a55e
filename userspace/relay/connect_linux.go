package relay

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// maxTries ends what a Journey that never gives up would make an endless loop of.
const maxTries = 64

// watched is what is asked of epoll for both sides, once. EPOLLOUT comes with the
// first event, and later only after a write has found no room.
const watched = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET&0xffffffff

// begin makes a connection of an accepted socket.
func (w *worker) begin(l *listener, fd int32, from netip.AddrPort) {
	if limit := w.engine.maxConns; limit > 0 && w.engine.active.Load() >= limit {
		w.count.shed.Add(1)
		resetFD(fd)
		return
	}
	if err := localAddr(fd, &w.addr); err != 0 {
		resetFD(fd) // it is gone already
		return
	}
	journey := w.engine.handler.Accepted(from, w.addr.get(), l.origin)
	if journey == nil {
		w.count.refused.Add(1)
		resetFD(fd)
		return
	}
	w.count.accepted.Add(1)
	c := w.newConn(fd)
	c.journey, c.spoken = journey, spoken(fd)
	if !w.attempt(c) {
		return
	}
	// Watched after the attempt has begun, since its success is likely to be the
	// next event, and the request of the client the one after that.
	if err := watch(w.epoll, fd, c.tag(client)); err != 0 {
		w.count.shed.Add(1)
		w.abort(c, ErrShed)
	}
}

// tag is what epoll gives back with events of one side.
func (c *conn) tag(i int) unix.EpollEvent {
	return unix.EpollEvent{Events: watched, Fd: int32(c.slot<<1 | uint32(i)), Pad: int32(c.gen)}
}

// attempt begins to connect to the next endpoint, or gives up. It reports whether
// the connection is still there.
func (w *worker) attempt(c *conn) bool {
	for c.tries < maxTries {
		t, ok := c.journey.Next()
		if !ok {
			break
		}
		if c.tries++; c.tries > 1 {
			w.count.retries.Add(1)
		}
		fd, err := w.dial(c, &t)
		if err == 0 {
			c.side[endpoint] = side{fd: fd}
			if err = watch(w.epoll, fd, c.tag(endpoint)); err == 0 {
				timeout := t.Timeout
				if timeout <= 0 {
					timeout = w.engine.connectTimeout
				}
				w.due.add(c, w.clock()+timeout)
				return true
			}
		}
		if starved(err) {
			w.count.shed.Add(1)
			w.abort(c, ErrShed)
			return false
		}
		w.failed(c, err)
	}
	w.count.exhausted.Add(1)
	w.abort(c, ErrExhausted)
	return false
}

// failed notes that an attempt has failed.
func (w *worker) failed(c *conn, err unix.Errno) {
	if fd := c.side[endpoint].fd; fd >= 0 {
		closeFD(fd)
	}
	c.side[endpoint] = side{fd: -1}
	w.due.remove(c)
	switch err {
	case unix.ECONNREFUSED, unix.ECONNRESET:
		w.count.failRefused.Add(1)
	case unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN:
		w.count.failUnreachable.Add(1)
	case unix.ETIMEDOUT:
		w.count.failTimeout.Add(1)
	default:
		w.count.failOther.Add(1)
	}
	c.journey.Failed(err)
}

// connectEvent handles an event of a connection that is not open yet. Of the client
// it only matters whether it is gone: what it sends stays in the kernel until there
// is somebody to read it, and a client that has ended its stream still waits for an
// answer.
func (w *worker) connectEvent(c *conn, i int, ev uint32) {
	failed := ev&(unix.EPOLLERR|unix.EPOLLHUP) != 0
	switch {
	case i == client && failed:
		w.abort(c, ErrClientGone)
	case i == client:
	case failed:
		w.failed(c, orReset(socketError(c.side[endpoint].fd)))
		w.attempt(c)
	case ev&unix.EPOLLOUT != 0:
		w.due.remove(c)
		c.state = open
		c.journey.Connected(c.handle(w))
		if c.side[client].in && !w.pump(c, client) {
			return
		}
		if c.side[endpoint].in {
			w.pump(c, endpoint)
		}
	}
}

// expire fails the attempts whose time is up.
func (w *worker) expire() {
	for len(w.due) > 0 && w.due[0].deadline <= w.clock() {
		c := w.due[0]
		w.failed(c, unix.ETIMEDOUT)
		w.attempt(c)
	}
}

// patience is how long epoll may wait: until the next deadline.
func (w *worker) patience(now time.Duration) time.Duration {
	d := time.Duration(-1)
	if len(w.due) > 0 {
		d = max(0, w.due[0].deadline-now)
	}
	for _, at := range []time.Duration{w.nextSweep, w.resume} {
		if at > 0 && (d < 0 || at-now < d) {
			d = max(0, at-now)
		}
	}
	return d
}

// dial opens a socket and begins to connect.
func (w *worker) dial(c *conn, t *Target) (int32, unix.Errno) {
	if !t.Source.IsValid() || t.Source.Port() == 0 {
		return w.dialFrom(c, t, 0)
	}
	fd, err := w.dialFrom(c, t, t.Source.Port())
	if err == unix.EADDRINUSE || err == unix.EADDRNOTAVAIL {
		return w.dialFrom(c, t, 0)
	}
	return fd, err
}

// dialFrom connects from the address of t.Source, if there is one, and from port,
// unless that is zero.
func (w *worker) dialFrom(c *conn, t *Target, port uint16) (int32, unix.Errno) {
	addr := t.Addr.Addr().Unmap()
	fd, err := openSocket(addr)
	if err != 0 {
		return -1, err
	}
	for _, o := range w.engine.upstream {
		if err = setOption(fd, o.level, o.opt, o.value); err != 0 {
			break
		}
	}
	if err == 0 && c.spoken {
		o := laterAck()
		err = setOption(fd, o.level, o.opt, o.value)
	}
	if err == 0 && t.Source.IsValid() {
		err = w.bindTo(fd, netip.AddrPortFrom(t.Source.Addr().Unmap(), port))
	}
	if err == 0 {
		w.addr.set(netip.AddrPortFrom(addr, t.Addr.Port()))
		err = connect(fd, &w.addr)
	}
	if err != 0 && err != unix.EINPROGRESS {
		closeFD(fd)
		return -1, err
	}
	return fd, 0
}

// bindTo binds to an address that may be foreign. A port that is given may have
// other connections elsewhere, which the client may have as well; without one the
// kernel chooses when it connects, so that it need not be free for every endpoint.
func (w *worker) bindTo(fd int32, source netip.AddrPort) unix.Errno {
	list := [2]option{{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	if source.Port() == 0 {
		list[0] = option{"IP_BIND_ADDRESS_NO_PORT", unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1}
	}
	n := 1
	if w.engine.transparent {
		list[1], n = transparent(source.Addr()), 2
	}
	for _, o := range list[:n] {
		if err := setOption(fd, o.level, o.opt, o.value); err != 0 {
			return err
		}
	}
	w.addr.set(source)
	return bind(fd, &w.addr)
}
