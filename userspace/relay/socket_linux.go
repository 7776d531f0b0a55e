package relay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Most calls of this file go to the kernel without telling Go's scheduler, which
// makes small ones cheaper. That is right only for calls that return soon: while one
// lasts, the garbage collector cannot stop the goroutine and nobody else gets its
// processor. All descriptors here are non-blocking.

// A rawAddr is a socket address as the kernel writes it, of either family.
type rawAddr struct {
	in6 unix.RawSockaddrInet6
	len uint32
}

func (a *rawAddr) in4() *unix.RawSockaddrInet4 {
	return (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.in6))
}

func (a *rawAddr) port() *[2]byte { return (*[2]byte)(unsafe.Pointer(&a.in6.Port)) }

// room makes a ready to be written by the kernel.
func (a *rawAddr) room() { a.len = unix.SizeofSockaddrInet6 }

func (a *rawAddr) set(ap netip.AddrPort) {
	a.in6 = unix.RawSockaddrInet6{}
	if ap.Addr().Is4() {
		in4 := a.in4()
		in4.Family, in4.Addr, a.len = unix.AF_INET, ap.Addr().As4(), unix.SizeofSockaddrInet4
	} else {
		a.in6.Family, a.in6.Addr, a.len = unix.AF_INET6, ap.Addr().As16(), unix.SizeofSockaddrInet6
	}
	binary.BigEndian.PutUint16(a.port()[:], ap.Port())
}

// get returns the address; it is the zero AddrPort for families other than IP.
func (a *rawAddr) get() netip.AddrPort {
	port := binary.BigEndian.Uint16(a.port()[:])
	switch a.in6.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4(a.in4().Addr), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.in6.Addr).Unmap(), port)
	}
	return netip.AddrPort{}
}

func accept(fd int32, from *rawAddr) (int32, unix.Errno) {
	from.room()
	n, _, err := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&from.in6)),
		uintptr(unsafe.Pointer(&from.len)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int32(n), err
}

func localAddr(fd int32, a *rawAddr) unix.Errno {
	a.room()
	_, _, err := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.in6)), uintptr(unsafe.Pointer(&a.len)))
	return err
}

// openSocket returns a TCP socket for addresses of the family of addr.
func openSocket(addr netip.Addr) (int32, unix.Errno) {
	family := uintptr(unix.AF_INET6)
	if addr.Is4() {
		family = unix.AF_INET
	}
	fd, _, err := unix.RawSyscall(unix.SYS_SOCKET, family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return int32(fd), err
}

func bind(fd int32, a *rawAddr) unix.Errno {
	_, _, err := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&a.in6)), uintptr(a.len))
	return err
}

// connect returns EINPROGRESS if nothing is wrong so far.
func connect(fd int32, a *rawAddr) unix.Errno {
	_, _, err := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a.in6)), uintptr(a.len))
	return err
}

func setOption(fd int32, level, name uintptr, value int32) unix.Errno {
	_, _, err := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), level, name, uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
	return err
}

// An option is one to be set on a socket.
type option struct {
	name       string
	level, opt uintptr
	value      int32
}

// transparent is the option to use foreign addresses of the family of addr.
func transparent(addr netip.Addr) option {
	if addr.Is4() {
		return option{"IP_TRANSPARENT", unix.SOL_IP, unix.IP_TRANSPARENT, 1}
	}
	return option{"IPV6_TRANSPARENT", unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1}
}

// streamOptions are those of sockets on both sides. Accepted sockets have them from
// their listener.
func streamOptions() []option {
	return []option{
		{"TCP_NODELAY", unix.SOL_TCP, unix.TCP_NODELAY, 1},
		{"SO_OOBINLINE", unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
	}
}

// laterAck has the kernel acknowledge the answer to its SYN together with the first
// data, which spares a packet if there is data to send (tcp_rcv_synsent_state_process).
// If there were none, those who wait for the endpoint to speak first would wait for
// a delayed acknowledgement, 40 ms.
func laterAck() option { return option{"TCP_QUICKACK", unix.SOL_TCP, unix.TCP_QUICKACK, 0} }

// keepAliveOptions are those of listeners, for their connections, and of sockets to
// endpoints once they have been open for a while: most never are.
func keepAliveOptions(after time.Duration) []option {
	if after <= 0 {
		return nil
	}
	idle := int32(max(1, min(after/time.Second, 32767))) // what the kernel accepts
	return []option{
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.SOL_TCP, unix.TCP_KEEPIDLE, idle},
	}
}

func setOptions(fd int32, list []option) error {
	for _, o := range list {
		if err := setOption(fd, o.level, o.opt, o.value); err != 0 {
			return fmt.Errorf("set %s: %w", o.name, err)
		}
	}
	return nil
}

// socketError returns the error that the kernel has noted for a socket, if any, and
// clears it.
func socketError(fd int32) unix.Errno {
	var value int32
	size := uint32(unsafe.Sizeof(value))
	_, _, err := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR,
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	if err != 0 {
		return err
	}
	return unix.Errno(value)
}

func receive(fd int32, p []byte) (int, unix.Errno) {
	n, _, err := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// spoken reports whether there is something to read, without reading it.
func spoken(fd int32) bool {
	var one [1]byte
	n, _, err := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&one)), 1, unix.MSG_PEEK, 0, 0)
	return err == 0 && n > 0
}

func send(fd int32, p []byte) (int, unix.Errno) { return sendFlags(fd, p, 0) }

// sendLast is send of what the end of the stream follows at once: the kernel waits
// for it, so that it goes out in the same segment.
func sendLast(fd int32, p []byte) (int, unix.Errno) { return sendFlags(fd, p, unix.MSG_MORE) }

func sendFlags(fd int32, p []byte, flags uintptr) (int, unix.Errno) {
	n, _, err := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL|flags, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

// splice moves so much at a time that Go's scheduler is told.
func splice(from, to int32, size int) (int, unix.Errno) {
	n, _, err := unix.Syscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(size), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

func endWriting(fd int32) unix.Errno {
	_, _, err := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return err
}

// stopListening has the kernel refuse who connects, and reset who was not accepted
// yet. The descriptor and the address are kept.
func stopListening(fd int32) {
	_, _, _ = unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_RD, 0)
}

// ignoreSYN has a listener not hear who wants to connect. Its socket filter sees
// packets from the TCP header on (tcp_filter in net/ipv4/tcp_ipv4.c).
func ignoreSYN(fd int32) {
	const flags, syn, ack = 13, 0x02, 0x10
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	// Where it cannot be had, those who connect last are reset, and try again.
	_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// admit undoes ignoreSYN.
func admit(fd int32) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) }

func closeFD(fd int32) {
	// The descriptor is gone whatever close returns.
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

// resetFD closes a connection so that the other end sees a reset.
func resetFD(fd int32) {
	l := unix.Linger{Onoff: 1}
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER,
		uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	closeFD(fd)
}

// watch adds fd to the epoll instance ep.
func watch(ep, fd int32, ev unix.EpollEvent) unix.Errno {
	_, _, err := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(ep), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	return err
}

func unwatch(ep, fd int32) {
	_, _, _ = unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(ep), unix.EPOLL_CTL_DEL, uintptr(fd), 0, 0, 0)
}

// poll returns the number of events that are there already.
func poll(ep int32, events []unix.EpollEvent) (int, error) {
	n, _, err := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), nil
}

// starved reports whether err says that the process or the node lacks something,
// rather than the other end.
func starved(err unix.Errno) bool {
	return err == unix.EMFILE || err == unix.ENFILE || err == unix.ENOBUFS || err == unix.ENOMEM
}
