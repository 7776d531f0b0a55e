package nft

import "encoding/binary"

// Numbers of linux/netlink.h, linux/netfilter/nfnetlink.h, nf_tables.h and
// nf_tables_compat.h.
const (
	netlinkNetfilter = 12
	nlmsgError       = 2
	nlmsgDone        = 3
	nlmsgHeader      = 16
	nfgenHeader      = 4
	attrHeader       = 4

	flagRequest   = 1 << 0
	flagAck       = 1 << 2
	flagDump      = 3 << 8
	flagCreate    = 1 << 10
	flagAppend    = 1 << 11
	flagDumpIntr  = 1 << 4
	subsystem     = 10 // NFNL_SUBSYS_NFTABLES
	msgBatchBegin = 16
	msgBatchEnd   = 17
	batchGenID    = 1

	msgNewTable = subsystem << 8
	msgNewChain = subsystem<<8 | 3
	msgGetChain = subsystem<<8 | 4
	msgDelChain = subsystem<<8 | 5
	msgNewRule  = subsystem<<8 | 6
	msgGetRule  = subsystem<<8 | 7
	msgDelRule  = subsystem<<8 | 8
	msgNewGen   = subsystem<<8 | 15
	msgGetGen   = subsystem<<8 | 16

	tableName = 1

	chainTable = 1
	chainName  = 3
	chainHook  = 4
	chainType  = 7
	hookNumber = 1
	hookPrio   = 2

	ruleTable  = 1
	ruleChain  = 2
	ruleHandle = 3
	ruleExprs  = 4
	ruleCompat = 5

	compatProto = 1
	compatFlags = 2

	listElem = 1
	exprName = 1
	exprData = 2

	genID = 1
)

// A batch is a buffer of netlink messages that are sent at once.
type batch struct {
	family uint8 // NFPROTO_*
	buf    []byte
	last   int // where the last message begins
	count  int // of messages
}

func (b *batch) reset() { b.buf, b.last, b.count = b.buf[:0], 0, 0 }

// begin starts a message. Its sequence number is the number of messages before it,
// until [batch.number] makes it larger.
func (b *batch) begin(typ, flags uint16) { b.message(typ, flags, b.family, 0) }

func (b *batch) message(typ, flags uint16, family uint8, resource uint16) {
	b.last = len(b.buf)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0) // length, see end
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, flagRequest|flags)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, uint32(b.count))
	b.buf = binary.NativeEndian.AppendUint32(b.buf, 0)
	b.buf = append(b.buf, family, 0, byte(resource>>8), byte(resource))
	b.count++
}

// end finishes the message that begin started.
func (b *batch) end() {
	binary.NativeEndian.PutUint32(b.buf[b.last:], uint32(len(b.buf)-b.last))
}

// number adds first to the sequence numbers.
func (b *batch) number(first uint32) {
	for rest := b.buf; len(rest) > 0; {
		binary.NativeEndian.PutUint32(rest[8:], first+binary.NativeEndian.Uint32(rest[8:]))
		rest = rest[binary.NativeEndian.Uint32(rest):]
	}
}

// acknowledge has the kernel answer to the last message also if it has no objections.
func (b *batch) acknowledge() {
	at := b.buf[b.last+6:]
	binary.NativeEndian.PutUint16(at, binary.NativeEndian.Uint16(at)|flagAck)
}

// nest begins an attribute whose content is what is added until close.
func (b *batch) nest(typ uint16) int {
	at := len(b.buf)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	return at
}

// close ends an attribute; the next begins at a multiple of four.
func (b *batch) close(at int) {
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
	for len(b.buf)%4 != 0 {
		b.buf = append(b.buf, 0)
	}
}

func (b *batch) bytes(typ uint16, data []byte) {
	at := b.nest(typ)
	b.buf = append(b.buf, data...)
	b.close(at)
}

// text adds a string with the zero at its end.
func (b *batch) text(typ uint16, s string) {
	at := b.nest(typ)
	b.buf = append(append(b.buf, s...), 0)
	b.close(at)
}

// u32 adds a number in the order of the network, as nf_tables has all of them.
func (b *batch) u32(typ uint16, v uint32) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, attrHeader+4)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = binary.BigEndian.AppendUint32(b.buf, v)
}

func (b *batch) u64(typ uint16, v uint64) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, attrHeader+8)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = binary.BigEndian.AppendUint64(b.buf, v)
}

// A message is one that was received.
type message struct {
	typ, flags uint16
	seq        uint32
	data       []byte
}

// nextMessage returns the first message of b, and the rest. A message that is not
// whole is not there.
func nextMessage(b []byte) (m message, rest []byte, ok bool) {
	if len(b) < nlmsgHeader {
		return message{}, nil, false
	}
	size := int(binary.NativeEndian.Uint32(b))
	if size < nlmsgHeader || size > len(b) {
		return message{}, nil, false
	}
	m = message{
		typ:   binary.NativeEndian.Uint16(b[4:]),
		flags: binary.NativeEndian.Uint16(b[6:]),
		seq:   binary.NativeEndian.Uint32(b[8:]),
		data:  b[nlmsgHeader:size],
	}
	return m, b[min(len(b), (size+3)&^3):], true
}

// attrs returns the attributes of a message of nf_tables.
func (m message) attrs() []byte {
	if len(m.data) < nfgenHeader {
		return nil
	}
	return m.data[nfgenHeader:]
}

// nextAttr returns the first attribute of b, and the rest. One that is not whole is
// not there.
func nextAttr(b []byte) (typ uint16, data, rest []byte, ok bool) {
	if len(b) < attrHeader {
		return 0, nil, nil, false
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < attrHeader || size > len(b) {
		return 0, nil, nil, false
	}
	const flags = 3 << 14
	return binary.NativeEndian.Uint16(b[2:]) &^ flags, b[attrHeader:size], b[min(len(b), (size+3)&^3):], true
}

// attr returns the content of an attribute in b, nil if there is none.
func attr(b []byte, want uint16) []byte {
	for {
		typ, data, rest, ok := nextAttr(b)
		if !ok {
			return nil
		}
		if typ == want {
			return data
		}
		b = rest
	}
}

// cString returns b up to the zero.
func cString(b []byte) []byte {
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return b
}
