//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Request describes a probe or a connection to be made.
type Request struct {
	Proto Proto          // required
	Dst   netip.AddrPort // required; the port is ignored for ICMP
	// Src and SrcPort bind the client's end. Zero values let the kernel choose.
	// Src need not be an address of the namespace yet (IP_FREEBIND).
	Src     netip.Addr
	SrcPort uint16
	// Timeout for connecting, and for each exchange. 0 means one second, which is
	// also when TCP first repeats itself: with less, a lost packet is final.
	Timeout time.Duration
	// Size is the length of the payload in bytes; 0 means a short one. At most
	// 8192 for UDP and ICMP.
	Size int
}

func (r Request) timeout() time.Duration {
	if r.Timeout == 0 {
		return time.Second
	}
	return r.Timeout
}

// socket makes a non-blocking socket in the namespace. The thread is only needed
// in there for this one call: a socket never leaves the namespace it was made in,
// so binding, connecting and waiting are done by ordinary goroutines.
func (ns *NS) socket(domain, typ, proto int) (int, error) {
	fd := -1
	err := ns.Do(func() (err error) {
		fd, err = unix.Socket(domain, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		return os.NewSyscallError("socket", err)
	})
	return fd, err
}

// socketFor makes the socket for a request, bound, and connected or connecting.
func (ns *NS) socketFor(r Request) (int, error) {
	var typ, proto int
	switch r.Proto {
	case TCP:
		typ, proto = unix.SOCK_STREAM, unix.IPPROTO_TCP
	case SCTP:
		typ, proto = unix.SOCK_STREAM, unix.IPPROTO_SCTP
	case UDP:
		typ, proto = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	case ICMP: // a ping socket: the kernel matches answers to requests
		typ, proto = unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6
		if r.Dst.Addr().Is4() {
			proto = unix.IPPROTO_ICMP
		}
	default:
		return -1, fmt.Errorf("no probes for %v", r.Proto)
	}
	fd, err := ns.socket(domain(r.Dst.Addr()), typ, proto)
	if err != nil {
		return -1, err
	}
	if err := r.prepare(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	err = unix.Connect(fd, sockaddr(r.Dst))
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// prepare sets options and binds.
func (r Request) prepare(fd int) error {
	type option struct{ level, name int }
	v6 := r.Dst.Addr().Is6()
	var on []option
	if r.Proto != TCP && v6 {
		on = append(on, option{unix.SOL_IPV6, unix.IPV6_RECVERR})
	}
	if r.Proto != TCP {
		// Without this, a datagram socket hears of "port unreachable" only, and
		// one for SCTP of nothing.
		on = append(on, option{unix.SOL_IP, unix.IP_RECVERR})
	}
	if r.SrcPort != 0 {
		// The port may have been used a moment ago, or be in use towards elsewhere.
		on = append(on, option{unix.SOL_SOCKET, unix.SO_REUSEADDR})
	}
	if r.Src.IsValid() {
		on = append(on, option{unix.SOL_IP, unix.IP_FREEBIND})
		if r.SrcPort == 0 && r.Proto == TCP {
			on = append(on, option{unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT})
		}
	}
	for _, o := range on {
		if err := unix.SetsockoptInt(fd, o.level, o.name, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if !r.Src.IsValid() && r.SrcPort == 0 {
		return nil
	}
	src := r.Src
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
		if v6 {
			src = netip.IPv6Unspecified()
		}
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(src, r.SrcPort))))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// connect opens a socket and waits until it is connected, the request's timeout
// is over (os.ErrDeadlineExceeded), or ctx ends.
func (ns *NS) connect(ctx context.Context, r Request) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if r.Proto == SCTP {
		return ns.dialSCTP(ctx, r)
	}
	fd, err := ns.socketFor(r)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), r.Dst.String())
	defer f.Close() // net.FileConn makes its own
	if r.Proto == TCP {
		if err := awaitConnected(ctx, f, time.Now().Add(r.timeout())); err != nil {
			return nil, err
		}
	}
	return net.FileConn(f)
}

// awaitConnected waits for a connecting socket.
func awaitConnected(ctx context.Context, f *os.File, deadline time.Time) error {
	if err := f.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer interrupt(ctx, f.SetWriteDeadline)()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) (done bool) {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failure = os.NewSyscallError("getsockopt", err)
			return true
		case errno != 0:
			failure = os.NewSyscallError("connect", unix.Errno(errno))
			return true
		}
		// Without an error it may still be under way.
		_, err = unix.Getpeername(int(fd))
		return err == nil
	})
	if err == nil {
		err = failure
	}
	if err != nil {
		return fmt.Errorf("connect: %w", cancelled(ctx, err))
	}
	return nil
}

// interrupt makes pending I/O fail when ctx ends. The function returned undoes it.
func interrupt(ctx context.Context, setDeadline func(time.Time) error) (stop func()) {
	undo := context.AfterFunc(ctx, func() { setDeadline(time.Unix(1, 0)) })
	return func() { undo() }
}

// cancelled replaces the timeout that interrupt caused by the reason for it.
func cancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}
