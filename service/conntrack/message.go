package conntrack

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// Message types and attributes of nfnetlink_conntrack.h that x/sys/unix lacks.
const (
	subsysConntrack = 1
	msgGet          = subsysConntrack<<8 | 1
	msgDelete       = subsysConntrack<<8 | 2

	attrTupleOrig  = 1
	attrTupleReply = 2
	attrID         = 12
	attrZone       = 18
	attrFilter     = 25 // since Linux 5.8; older kernels ignore it

	tupleIP    = 1
	tupleProto = 2

	ipv4Src, ipv4Dst = 1, 2
	ipv6Src, ipv6Dst = 3, 4

	protoNum     = 1
	protoDstPort = 3
	protoSrcPort = 2

	filterOrig, filterReply = 1, 2
	filterOnProtocol        = 1 << 3
)

// genLen is the length of struct nfgenmsg, which follows the netlink header.
const genLen = 4

func appendGen(b []byte, f service.Family) []byte {
	af := byte(unix.AF_INET)
	if f == service.IPv6 {
		af = unix.AF_INET6
	}
	return append(b, af, unix.NFNETLINK_V0, 0, 0)
}

func appendAttr(b []byte, kind uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// appendUDPOnly appends the attributes that restrict a listing to UDP.
func appendUDPOnly(b []byte) []byte {
	const nested = unix.NLA_F_NESTED
	proto := appendAttr(nil, protoNum, unix.IPPROTO_UDP)
	b = appendAttr(b, attrTupleOrig|nested, appendAttr(nil, tupleProto|nested, proto...)...)
	flags := appendAttr(nil, filterOrig, binary.NativeEndian.AppendUint32(nil, filterOnProtocol)...)
	flags = appendAttr(flags, filterReply, 0, 0, 0, 0)
	return appendAttr(b, attrFilter|nested, flags...)
}

// attrs yields the type and the value of each attribute in b. It stops at the
// first that does not fit.
func attrs(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if size < 4 || size > len(b) || !yield(kind, b[4:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// An entry is what we need of one entry of the table. Its slices alias the
// message it was read from.
type entry struct {
	flow service.ConntrackFlow
	orig []byte // the tuple that names the entry
	id   []byte // tells it from a later entry with the same tuple
	zone []byte // empty for the default zone
}

// parse reads the payload of a message of the table. It reports false for what
// is no UDP entry with both its tuples.
func parse(payload []byte) (entry, bool) {
	var e entry
	if len(payload) < genLen {
		return e, false
	}
	var reply tuple
	for kind, value := range attrs(payload[genLen:]) {
		switch kind {
		case attrTupleOrig:
			e.orig = value
		case attrTupleReply:
			reply = parseTuple(value)
		case attrID:
			e.id = value
		case attrZone:
			e.zone = value
		}
	}
	orig := parseTuple(e.orig)
	if orig.proto != unix.IPPROTO_UDP || !orig.dst.IsValid() || !reply.src.IsValid() {
		return e, false
	}
	e.flow = service.ConntrackFlow{
		Protocol: service.UDP,
		OrigSrc:  netip.AddrPortFrom(orig.src, orig.srcPort),
		OrigDst:  netip.AddrPortFrom(orig.dst, orig.dstPort),
		ReplySrc: netip.AddrPortFrom(reply.src, reply.srcPort),
		ReplyDst: netip.AddrPortFrom(reply.dst, reply.dstPort),
	}
	return e, true
}

// appendKey appends the attributes that name e in a deletion. A deletion without
// a tuple would empty the whole table: parse does not let one through.
func (e entry) appendKey(b []byte) []byte {
	b = appendAttr(b, attrTupleOrig|unix.NLA_F_NESTED, e.orig...)
	if len(e.id) > 0 {
		b = appendAttr(b, attrID, e.id...)
	}
	if len(e.zone) > 0 {
		b = appendAttr(b, attrZone, e.zone...)
	}
	return b
}

type tuple struct {
	proto            uint8
	src, dst         netip.Addr
	srcPort, dstPort uint16
}

func parseTuple(b []byte) tuple {
	var t tuple
	for kind, value := range attrs(b) {
		switch kind {
		case tupleIP:
			t.parseIP(value)
		case tupleProto:
			t.parseProto(value)
		}
	}
	return t
}

func (t *tuple) parseIP(b []byte) {
	for kind, value := range attrs(b) {
		addr, _ := netip.AddrFromSlice(value)
		switch kind {
		case ipv4Src, ipv6Src:
			t.src = addr
		case ipv4Dst, ipv6Dst:
			t.dst = addr
		}
	}
}

func (t *tuple) parseProto(b []byte) {
	for kind, value := range attrs(b) {
		switch {
		case kind == protoNum && len(value) == 1:
			t.proto = value[0]
		case kind == protoSrcPort && len(value) == 2:
			t.srcPort = binary.BigEndian.Uint16(value)
		case kind == protoDstPort && len(value) == 2:
			t.dstPort = binary.BigEndian.Uint16(value)
		}
	}
}
