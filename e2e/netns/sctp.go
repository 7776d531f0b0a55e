//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SCTP, which package net does not know, is spoken over one-to-one sockets
// (RFC 6458, section 4): they connect, accept and close like those of TCP. What
// differs is that an association has as many paths as its ends have addresses;
// here either end is bound to one, or the answers of a translated association
// would tell the way around the translation.

// HasSCTP reports whether the kernel has sockets for SCTP. The first call may
// load the module.
func HasSCTP() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// sctpChunk is how much is handed to the kernel at once: a message has to fit
// into the send buffer as a whole.
const sctpChunk = 16 << 10

// sctpAddr is an address of SCTP. It implements net.Addr.
type sctpAddr netip.AddrPort

func (a sctpAddr) Network() string { return "sctp" }
func (a sctpAddr) String() string  { return netip.AddrPort(a).String() }

// sctpConn is an association, as a stream of bytes. It implements stream.
type sctpConn struct {
	sctpFile
	raw    syscall.RawConn
	local  sctpAddr
	remote sctpAddr
}

// sctpFile is what an *os.File does well for a socket of SCTP. Its other ways of
// writing would send messages of any size, empty ones too, which SCTP refuses.
type sctpFile interface {
	io.ReadCloser
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// newSCTPConn takes over the file of a connected socket, also when it fails.
func newSCTPConn(f *os.File) (*sctpConn, error) {
	c := &sctpConn{sctpFile: f}
	var err error
	if c.raw, err = f.SyscallConn(); err == nil {
		c.local, err = sctpName(c.raw, unix.Getsockname)
	}
	if err == nil {
		c.remote, err = sctpName(c.raw, unix.Getpeername)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sctp association: %w", err), f.Close())
	}
	return c, nil
}

// sctpName asks a socket for an address.
func sctpName(raw syscall.RawConn, ask func(fd int) (unix.Sockaddr, error)) (sctpAddr, error) {
	var sa unix.Sockaddr
	var err error
	if cerr := raw.Control(func(fd uintptr) { sa, err = ask(int(fd)) }); cerr != nil {
		return sctpAddr{}, cerr
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return sctpAddr(netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))), nil
	case *unix.SockaddrInet6:
		return sctpAddr(netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))), nil
	}
	return sctpAddr{}, err
}

// LocalAddr returns the one address this end is bound to.
func (c *sctpConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the other end.
func (c *sctpConn) RemoteAddr() net.Addr { return c.remote }

// Write sends b, in several messages if it is long.
func (c *sctpConn) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		part := b[sent:min(len(b), sent+sctpChunk)]
		var n int
		var err error
		werr := c.raw.Write(func(fd uintptr) (done bool) {
			n, err = unix.SendmsgN(int(fd), part, nil, nil, unix.MSG_NOSIGNAL)
			return !errors.Is(err, unix.EAGAIN)
		})
		if err = errors.Join(werr, err); err != nil {
			return sent, fmt.Errorf("sctp: send: %w", err)
		}
		sent += n
	}
	return sent, nil
}

// CloseWrite fails: SCTP has no half-closed associations (RFC 9260, section 9.2).
func (c *sctpConn) CloseWrite() error { return errors.New("sctp: associations cannot be half closed") }

// SetLinger does what [net.TCPConn.SetLinger] does: with 0, closing aborts.
func (c *sctpConn) SetLinger(sec int) error {
	l := unix.Linger{Onoff: 1, Linger: int32(sec)}
	var err error
	cerr := c.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &l)
	})
	return errors.Join(cerr, err)
}

// sctpListener implements net.Listener.
type sctpListener struct {
	f    *os.File
	raw  syscall.RawConn
	addr sctpAddr
}

// listenSCTP makes a listening socket at one address.
func (ns *NS) listenSCTP(addr netip.AddrPort) (*sctpListener, error) {
	if addr.Addr().IsUnspecified() {
		return nil, errors.New("an SCTP server needs a specific address")
	}
	fd, err := ns.socket(domain(addr.Addr()), unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, err
	}
	// Associations of an earlier server may still be on their way out.
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, sockaddr(addr)))
	}
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, 128))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	l := &sctpListener{f: os.NewFile(uintptr(fd), addr.String())}
	if l.raw, err = l.f.SyscallConn(); err == nil {
		l.addr, err = sctpName(l.raw, unix.Getsockname)
	}
	if err != nil {
		return nil, errors.Join(err, l.f.Close())
	}
	return l, nil
}

// Accept waits for an association.
func (l *sctpListener) Accept() (net.Conn, error) {
	fd := -1
	var err error
	rerr := l.raw.Read(func(listener uintptr) (done bool) {
		fd, _, err = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return !errors.Is(err, unix.EAGAIN)
	})
	if err = errors.Join(rerr, err); err != nil {
		return nil, fmt.Errorf("sctp: accept: %w", err)
	}
	return newSCTPConn(os.NewFile(uintptr(fd), "association with "+l.addr.String()))
}

// Addr returns the address listened at.
func (l *sctpListener) Addr() net.Addr { return l.addr }

// Close ends the listener and a waiting Accept. A second time it returns
// [net.ErrClosed].
func (l *sctpListener) Close() error {
	if err := l.f.Close(); err != nil {
		return fmt.Errorf("sctp: %w: %w", net.ErrClosed, err)
	}
	return nil
}

// dialSCTP is connect for SCTP.
func (ns *NS) dialSCTP(ctx context.Context, r Request) (*sctpConn, error) {
	if !r.Src.IsValid() {
		src, err := ns.sourceTo(r.Dst)
		if err != nil {
			return nil, err
		}
		r.Src = src
	}
	fd, err := ns.socketFor(r)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), r.Dst.String())
	if err := awaitConnected(ctx, f, time.Now().Add(r.timeout())); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return newSCTPConn(f)
}

// sourceTo returns the address that the namespace would use towards dst, which
// is not told anything.
func (ns *NS) sourceTo(dst netip.AddrPort) (netip.Addr, error) {
	fd, err := ns.socket(domain(dst.Addr()), unix.SOCK_DGRAM, unix.IPPROTO_UDP)
	if err != nil {
		return netip.Addr{}, err
	}
	f := os.NewFile(uintptr(fd), dst.String())
	defer f.Close()
	if err := unix.Connect(fd, sockaddr(dst)); err != nil {
		return netip.Addr{}, os.NewSyscallError("connect", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return netip.Addr{}, err
	}
	name, err := sctpName(raw, unix.Getsockname)
	return netip.AddrPort(name).Addr(), err
}

// domain is the address family of a socket for an address.
func domain(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
