package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// newSocket returns a UDP socket of the family of a.
func newSocket(a netip.AddrPort) (int, error) {
	family := unix.AF_INET6
	if a.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("making a UDP socket: %w", err)
	}
	return fd, nil
}

// An option is a socket option whose value is a number.
type option struct{ level, name, value int }

func setOptions(fd int, opts ...option) error {
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("setting option %d of level %d to %d: %w", o.name, o.level, o.value, err)
		}
	}
	return nil
}

// transparent lets a socket have an address that is not the node's.
func transparent(a netip.AddrPort) option {
	if a.Addr().Is4() {
		return option{unix.SOL_IP, unix.IP_TRANSPARENT, 1}
	}
	return option{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1}
}

// fragments has routers fragment what is sent if they have to: a client that did
// not ask for path MTU discovery could not understand its result.
func fragments(a netip.AddrPort) option {
	if a.Addr().Is4() {
		return option{unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT}
	}
	return option{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT}
}

// sockaddr returns a for bind and connect. A zone must be a number.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if n, err := strconv.ParseUint(a.Addr().Zone(), 10, 32); err == nil {
		sa.ZoneId = uint32(n)
	}
	return sa
}

// openListener opens a socket and returns its address too. Several workers may have
// a shared one at the same address.
func openListener(l Listener, c *Config, shared bool) (int, netip.AddrPort, error) {
	fd, err := newSocket(l.Addr)
	if err != nil {
		return -1, l.Addr, err
	}
	opts := []option{fragments(l.Addr)}
	if shared {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1})
	}
	if !l.Addr.Addr().Is4() {
		opts = append(opts, option{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1})
	}
	if c.Transparent {
		opts = append(opts, transparent(l.Addr))
		if l.Addr.Addr().Is4() {
			opts = append(opts, option{unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1})
		} else {
			opts = append(opts, option{unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1})
		}
	}
	err = setOptions(fd, opts...)
	if err == nil && setOptions(fd, option{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, c.ReceiveBuffer}) != nil {
		err = setOptions(fd, option{unix.SOL_SOCKET, unix.SO_RCVBUF, c.ReceiveBuffer})
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(l.Addr))
	}
	bound := l.Addr
	if err == nil {
		bound, err = localAddr(fd)
	}
	if err != nil {
		return -1, l.Addr, errors.Join(fmt.Errorf("listening at %v: %w", l.Addr, err), unix.Close(fd))
	}
	return fd, bound, nil
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("asking for the address of a socket: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	default:
		return netip.AddrPort{}, fmt.Errorf("a socket has an address of type %T", sa)
	}
}

// openReply opens a socket that sends from the frontend and receives nothing: its
// peer is the discard port of this host. The kernel lets a connected socket send
// to others all the same.
func openReply(frontend netip.AddrPort, mark uint32) (int, error) {
	fd, err := newSocket(frontend)
	if err != nil {
		return -1, err
	}
	nobody := netip.AddrPortFrom(netip.IPv6Loopback(), 9)
	if frontend.Addr().Is4() {
		nobody = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 9)
	}
	// The smallest buffer there is, for what may come between bind and connect.
	opts := []option{transparent(frontend), fragments(frontend), {unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {unix.SOL_SOCKET, unix.SO_RCVBUF, 0}}
	if mark != 0 {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_MARK, int(mark)})
	}
	err = setOptions(fd, opts...)
	if err == nil {
		err = unix.Bind(fd, sockaddr(frontend))
	}
	if err == nil {
		err = unix.Connect(fd, sockaddr(nobody))
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("making a socket that answers from %v: %w", frontend, err), unix.Close(fd))
	}
	return fd, nil
}

// openRawReply opens a raw socket that sends from the address of the frontend and
// receives nothing.
func openRawReply(frontend netip.AddrPort, mark uint32) (int, error) {
	family := unix.AF_INET6
	opts := []option{transparent(frontend), fragments(frontend), {unix.SOL_SOCKET, unix.SO_RCVBUF, 0}}
	if frontend.Addr().Is4() {
		family = unix.AF_INET
	} else {
		opts = append(opts, option{unix.SOL_IPV6, unix.IPV6_CHECKSUM, checksumAt})
	}
	if mark != 0 {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_MARK, int(mark)})
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return -1, fmt.Errorf("making a raw socket: %w", err)
	}
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	if err == nil {
		err = setOptions(fd, opts...)
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(frontend.Addr(), 0)))
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("making a raw socket that answers from %v: %w", frontend, err), unix.Close(fd))
	}
	return fd, nil
}

// dial opens a socket connected to t. If the port of t.Source is taken it has
// another one of the same address.
func dial(t *Target, c *Config) (int, error) {
	fd, err := dialFrom(t, t.Source, c)
	if t.Source.Port() != 0 && (errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL)) {
		return dialFrom(t, netip.AddrPortFrom(t.Source.Addr(), 0), c)
	}
	return fd, err
}

// sessionBuffer is how many bytes may wait for a session, the kernel's overhead
// not counted. The default of about 200 KiB is three datagrams of the largest kind.
// What all sockets of the host take is bounded by net.ipv4.udp_mem.
const sessionBuffer = 1 << 20

func dialFrom(t *Target, source netip.AddrPort, c *Config) (int, error) {
	fd, err := newSocket(t.Addr)
	if err != nil {
		return -1, err
	}
	opts := []option{fragments(t.Addr)}
	if setOptions(fd, option{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sessionBuffer}) != nil {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_RCVBUF, sessionBuffer})
	}
	if c.Mark != 0 {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_MARK, int(c.Mark)})
	}
	if source.IsValid() && c.Transparent {
		opts = append(opts, transparent(t.Addr))
	}
	err = setOptions(fd, opts...)
	if err == nil && source.IsValid() {
		err = unix.Bind(fd, sockaddr(source))
	}
	if err == nil {
		err = unix.Connect(fd, sockaddr(t.Addr))
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("connecting to %v: %w", t.Addr, err), unix.Close(fd))
	}
	return fd, nil
}

// unreachable reports whether err says that the endpoint, and not this node, is
// why something was not sent.
func unreachable(err error) bool {
	for _, e := range []unix.Errno{
		unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENOPROTOOPT, unix.EACCES,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// exhausted reports whether err says that there are no more descriptors, or no
// memory for a socket.
func exhausted(err error) bool {
	for _, e := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
