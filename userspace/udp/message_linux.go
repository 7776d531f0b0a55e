package udp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize = 32

	// maxDatagram is more than a UDP datagram can hold: 65507 bytes over IPv4,
	// 65527 over IPv6. So nothing is ever truncated.
	maxDatagram = 1 << 16
)

// A message is a struct mmsghdr (recvmmsg(2)).
type message struct {
	hdr unix.Msghdr
	n   uint32 // bytes received or sent
}

// A batch is memory for datagrams to be received. Its pages are used only as far
// as there are datagrams to fill them, and the garbage collector does not know of
// them: it lets garbage gather in proportion to what it knows.
type batch struct {
	msgs    [batchSize]message
	iovs    [batchSize]unix.Iovec
	names   [batchSize]unix.RawSockaddrInet6 // big enough for IPv4 too
	control [batchSize][8]uint64             // a struct cmsghdr and an address
	buf     []byte                           // mapped, until close
}

func newBatch() (*batch, error) {
	buf, err := unix.Mmap(-1, 0, batchSize*maxDatagram, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("mapping memory for datagrams: %w", err)
	}
	b := &batch{buf: buf}
	for i := range b.msgs {
		b.iovs[i].Base = &b.buf[i*maxDatagram]
		b.iovs[i].SetLen(maxDatagram)
	}
	return b, nil
}

// close gives the memory back. What data has returned must not be used any more. A
// nil batch has none, and one that is closed neither.
func (b *batch) close() error {
	if b == nil || b.buf == nil {
		return nil
	}
	buf := b.buf
	b.buf = nil
	return unix.Munmap(buf)
}

// receive reads what there is on fd, into the messages from first on; with names
// and control messages if it is a listener. It returns how many it read.
func (b *batch) receive(fd, first int, listener bool) (int, error) {
	for i := first; i < batchSize; i++ {
		h := &b.msgs[i].hdr
		*h = unix.Msghdr{Iov: &b.iovs[i]}
		h.SetIovlen(1)
		if listener {
			h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
			h.Namelen = uint32(unsafe.Sizeof(b.names[i]))
			h.Control = (*byte)(unsafe.Pointer(&b.control[i]))
			h.SetControllen(int(unsafe.Sizeof(b.control[i])))
		}
	}
	return multi(unix.SYS_RECVMMSG, fd, b.msgs[first:])
}

// data returns what the message i holds.
func (b *batch) data(i int) []byte {
	return b.buf[i*maxDatagram:][:b.msgs[i].n]
}

// client returns who sent the message i.
func (b *batch) client(i int) (netip.AddrPort, bool) {
	return address(unsafe.Slice((*byte)(unsafe.Pointer(&b.names[i])), b.msgs[i].hdr.Namelen))
}

// frontend returns where the message i was sent to.
func (b *batch) frontend(i int) (netip.AddrPort, bool) {
	rest := unsafe.Slice((*byte)(unsafe.Pointer(&b.control[i])), int(b.msgs[i].hdr.Controllen))
	for len(rest) > 0 {
		h, data, after, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			break
		}
		if h.Level == unix.SOL_IP && h.Type == unix.IP_ORIGDSTADDR ||
			h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_ORIGDSTADDR {
			return address(data)
		}
		rest = after
	}
	return netip.AddrPort{}, false
}

// A sendBatch is a list of datagrams to be sent. The memory they are in is not
// its own.
type sendBatch struct {
	msgs    [batchSize]message
	iovs    [batchSize][2]unix.Iovec
	names   [batchSize]unix.RawSockaddrInet6
	headers [batchSize][headerSize]byte
	n       int
}

// add appends data to be sent to the peer of the socket, or to the address to if
// that is valid.
func (b *sendBatch) add(data []byte, to netip.AddrPort) {
	h := b.grow(data)
	if to.IsValid() {
		h.Name = (*byte)(unsafe.Pointer(&b.names[b.n-1]))
		h.Namelen = putAddress(&b.names[b.n-1], to)
	}
}

// addRaw appends data to be sent over a raw socket, with a UDP header.
func (b *sendBatch) addRaw(data []byte, from, to netip.AddrPort) {
	// A raw socket takes the port in an address for a protocol.
	b.add(data, netip.AddrPortFrom(to.Addr(), 0))
	i := b.n - 1
	putHeader(&b.headers[i], data, from, to)
	b.iovs[i][1] = b.iovs[i][0]
	b.iovs[i][0] = unix.Iovec{Base: &b.headers[i][0]}
	b.iovs[i][0].SetLen(headerSize)
	b.msgs[i].hdr.SetIovlen(2)
}

func (b *sendBatch) grow(data []byte) *unix.Msghdr {
	i := b.n
	b.n++
	h := &b.msgs[i].hdr
	*h = unix.Msghdr{Iov: &b.iovs[i][0]}
	h.SetIovlen(1)
	b.iovs[i][0] = unix.Iovec{Base: unsafe.SliceData(data)}
	b.iovs[i][0].SetLen(len(data))
	return h
}

// send sends the messages from first on, and returns how many were sent. That is
// fewer than all if the next cannot be: the error of the next call says why.
func (b *sendBatch) send(fd, first int) (int, error) {
	return multi(unix.SYS_SENDMMSG, fd, b.msgs[first:b.n])
}

// multi is recvmmsg(2) and sendmmsg(2), which take the same arguments up to the
// flags; what recvmmsg has after them is zero.
func multi(trap uintptr, fd int, msgs []message) (int, error) {
	for {
		n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(msgs))),
			uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// address reads a struct sockaddr_in or sockaddr_in6.
func address(b []byte) (netip.AddrPort, bool) {
	if len(b) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port), true
	case unix.AF_INET6:
		if len(b) < unix.SizeofSockaddrInet6 {
			return netip.AddrPort{}, false
		}
		a := netip.AddrFrom16([16]byte(b[8:24]))
		if scope := binary.NativeEndian.Uint32(b[24:]); scope != 0 {
			a = a.WithZone(strconv.FormatUint(uint64(scope), 10))
		}
		return netip.AddrPortFrom(a, port), true
	default:
		return netip.AddrPort{}, false
	}
}

// putAddress writes what address reads, and returns its length. A zone must be a
// number, as address makes them.
func putAddress(to *unix.RawSockaddrInet6, a netip.AddrPort) uint32 {
	b := unsafe.Slice((*byte)(unsafe.Pointer(to)), unix.SizeofSockaddrInet6)
	clear(b)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	if a.Addr().Is4() {
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		ip := a.Addr().As4()
		copy(b[4:], ip[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	ip := a.Addr().As16()
	copy(b[8:], ip[:])
	if scope, err := strconv.ParseUint(a.Addr().Zone(), 10, 32); err == nil {
		binary.NativeEndian.PutUint32(b[24:], uint32(scope))
	}
	return unix.SizeofSockaddrInet6
}
