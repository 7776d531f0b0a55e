package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A verdict says what an error of the kernel means for the op whose message it
// answers: nil if it is none.
type verdict func(syscall.Errno) error

// refused is the verdict of most messages.
func refused(e syscall.Errno) error { return e }

// unless returns the verdict that one error is none.
func unless(fine syscall.Errno) verdict {
	return func(e syscall.Errno) error {
		if e == fine {
			return nil
		}
		return e
	}
}

// A sent is a message of a batch.
type sent struct {
	op      int // index
	meaning verdict
}

// A batch is a buffer of netlink messages, which are sent together.
type batch struct {
	buf  []byte
	msgs []sent
	last int // where the last message begins
}

func (b *batch) reset() { b.buf, b.msgs, b.last = b.buf[:0], b.msgs[:0], 0 }

// begin starts a message of an op, given by its index.
func (b *batch) begin(op int, typ, flags uint16, meaning verdict) {
	b.last = len(b.buf)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // length, see end
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, unix.NLM_F_REQUEST|flags)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // sequence number, see number
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // from: the kernel knows
	b.msgs = append(b.msgs, sent{op, meaning})
}

// end finishes the message that begin started.
func (b *batch) end() {
	binary.NativeEndian.PutUint32(b.buf[b.last:], uint32(len(b.buf)-b.last))
}

// flag adds flags to the last message.
func (b *batch) flag(flags uint16) {
	at := b.buf[b.last+6:]
	binary.NativeEndian.PutUint16(at, binary.NativeEndian.Uint16(at)|flags)
}

// number gives the messages consecutive sequence numbers.
func (b *batch) number(first uint32) {
	rest := b.buf
	for len(rest) > 0 {
		binary.NativeEndian.PutUint32(rest[8:], first)
		rest = rest[binary.NativeEndian.Uint32(rest):]
		first++
	}
}

// attr adds an attribute.
func (b *batch) attr(typ uint16, data ...byte) {
	at := b.nest(typ)
	b.buf = append(b.buf, data...)
	b.close(at)
}

func (b *batch) u8(typ uint16, v uint8) { b.attr(typ, v) }

func (b *batch) u16(typ, v uint16) {
	var raw [2]byte
	binary.NativeEndian.PutUint16(raw[:], v)
	b.attr(typ, raw[:]...)
}

func (b *batch) u32(typ uint16, v uint32) {
	var raw [4]byte
	binary.NativeEndian.PutUint32(raw[:], v)
	b.attr(typ, raw[:]...)
}

// word adds a number without a header.
func (b *batch) word(v uint32) { b.buf = binary.NativeEndian.AppendUint32(b.buf, v) }

// big16 and big32 add numbers in the order of the network, without saying so.
func (b *batch) big16(typ, v uint16) { b.attr(typ, byte(v>>8), byte(v)) }

func (b *batch) big32(typ uint16, v uint32) {
	b.attr(typ, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// text adds a string with the zero at its end.
func (b *batch) text(typ uint16, s string) {
	at := b.nest(typ)
	b.buf = append(append(b.buf, s...), 0)
	b.close(at)
}

// nest begins an attribute whose content is what is added until close.
func (b *batch) nest(typ uint16) int {
	at := len(b.buf)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	return at
}

func (b *batch) close(at int) {
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
	for len(b.buf)%unix.NLA_ALIGNTO != 0 {
		b.buf = append(b.buf, 0)
	}
}

// addr adds the bytes of an address.
func (b *batch) addr(typ uint16, a netip.Addr) {
	if a.Is4() {
		raw := a.As4()
		b.attr(typ, raw[:]...)
		return
	}
	raw := a.As16()
	b.attr(typ, raw[:]...)
}

// family returns AF_INET or AF_INET6.
func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// A message is one that was received. Its data are valid until the next read.
type message struct {
	typ, flags uint16
	seq        uint32
	data       []byte // behind the netlink header
}

// errMalformed says that the kernel sent what does not make sense, which is an
// error of ours.
var errMalformed = errors.New("malformed netlink message")

// nextMessage cuts the first message off b.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return m, nil, errMalformed
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < unix.NLMSG_HDRLEN || n > len(b) {
		return m, nil, errMalformed
	}
	m = message{
		typ:   binary.NativeEndian.Uint16(b[4:]),
		flags: binary.NativeEndian.Uint16(b[6:]),
		seq:   binary.NativeEndian.Uint32(b[8:]),
		data:  b[unix.NLMSG_HDRLEN:n],
	}
	return m, b[min(align(n), len(b)):], nil
}

// errno reads the number at the start of NLMSG_ERROR and NLMSG_DONE; zero is
// success.
func (m *message) errno() syscall.Errno {
	if len(m.data) < 4 {
		return 0
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(m.data)))
}

// after returns the attributes that follow a header of n bytes.
func (m *message) after(n int) attrs {
	if len(m.data) < n {
		return nil
	}
	return attrs(m.data[n:])
}

// typeMask is what of the type of an attribute is no flag (NLA_TYPE_MASK).
const typeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// attrs is a list of attributes as it was received.
type attrs []byte

// each calls do for every attribute; what is malformed ends the list. Types have
// their flags removed.
func (a attrs) each(do func(typ uint16, data []byte)) {
	for len(a) >= unix.SizeofNlAttr {
		n := int(binary.NativeEndian.Uint16(a))
		if n < unix.SizeofNlAttr || n > len(a) {
			return
		}
		do(binary.NativeEndian.Uint16(a[2:])&typeMask, a[unix.SizeofNlAttr:n])
		a = a[min(align(n), len(a)):]
	}
}

func align(n int) int { return (n + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1) }

// native16 and native32 read numbers; one that is too short is zero.
func native16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(b)
}

func native32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func network16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

func network32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// zeroEnded reads a string.
func zeroEnded(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// address reads an address of the family, which can stand in a longer field.
func address(af uint16, b []byte) (netip.Addr, bool) {
	n := 4
	if af == unix.AF_INET6 {
		n = 16
	}
	if len(b) < n {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(b[:n])
}
