package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/fairlead-project/fairlead/iptables/xt/abi"
)

// The attributes of expressions, and the values of some (linux/netfilter/nf_tables.h).
const (
	dataValue   = 1
	dataVerdict = 2

	verdictCode  = 1
	verdictChain = 2

	metaDest = 1
	metaKey  = 2
	metaMark = 3
	metaIn   = 6
	metaOut  = 7
	metaL4   = 16

	cmpSource = 1
	cmpOp     = 2
	cmpData   = 3
	opEqual   = 0
	opDiffer  = 1

	payloadDest     = 1
	payloadBase     = 2
	payloadOffset   = 3
	payloadLen      = 4
	networkHeader   = 1
	transportHeader = 2
	destPortOffset  = 2
	tcpFlagsOffset  = 13
	bitwiseSource   = 1
	bitwiseDest     = 2
	bitwiseLen      = 3
	bitwiseMask     = 4
	bitwiseXor      = 5
	bitwiseOp       = 6
	rangeSource     = 1
	rangeOp         = 2
	rangeFrom       = 3
	rangeTo         = 4
	counterBytes    = 1
	counterPackets  = 2
	immediateDest   = 1
	immediateData   = 2
	compatName      = 1
	compatRevision  = 2
	compatInfo      = 3
	registerVerdict = 0
	register        = 1
	codeDrop        = 0
	codeAccept      = 1
	codeJump        = -3
	codeGoto        = -4
	codeReturn      = -5
	nfprotoIPv4     = 2
	nfprotoIPv6     = 10
	sourceOffset4   = 12
	destOffset4     = 16
	sourceOffset6   = 8
	destOffset6     = 24
	maxAttr         = math.MaxUint16
)

// expr adds an expression, whose attributes are what fill adds.
func (b *batch) expr(name string, fill func()) {
	elem := b.nest(listElem)
	b.text(exprName, name)
	data := b.nest(exprData)
	fill()
	b.close(data)
	b.close(elem)
}

// exprs adds the expressions of r, in the order iptables-nft 1.8.9 adds them. Their
// attributes are in the order in which the kernel gives them back.
func (b *batch) exprs(r *abi.Rule) error {
	b.iface(metaIn, r.In)
	b.iface(metaOut, r.Out)
	if r.Proto != 0 {
		b.meta(metaL4)
		b.cmp(opEqual, []byte{r.Proto})
	}
	source, dest := uint32(sourceOffset4), uint32(destOffset4)
	if b.family == nfprotoIPv6 {
		source, dest = sourceOffset6, destOffset6
	}
	if err := errors.Join(able(r), b.addr(source, r.Src), b.addr(dest, r.Dst)); err != nil {
		return err
	}
	for i := range r.Matches {
		b.match(&r.Matches[i])
	}
	b.expr("counter", func() {
		b.u64(counterBytes, 0)
		b.u64(counterPackets, 0)
	})
	return b.action(r)
}

// able refuses what the tool has a detour for, and nobody here wants.
func able(r *abi.Rule) error {
	if r.In.Any && r.In.Name == "" || r.Out.Any && r.Out.Name == "" {
		return fmt.Errorf("%w: any interface", abi.ErrNotEncodable)
	}
	return nil
}

func (b *batch) meta(key uint32) {
	b.expr("meta", func() {
		b.u32(metaKey, key)
		b.u32(metaDest, register)
	})
}

func (b *batch) cmp(op uint32, value []byte) {
	b.expr("cmp", func() {
		b.u32(cmpSource, register)
		b.u32(cmpOp, op)
		b.value(cmpData, value)
	})
}

// value adds an attribute that holds data for a register.
func (b *batch) value(typ uint16, v []byte) {
	at := b.nest(typ)
	b.bytes(dataValue, v)
	b.close(at)
}

func (b *batch) payload(base, offset, size uint32) {
	b.expr("payload", func() {
		b.u32(payloadDest, register)
		b.u32(payloadBase, base)
		b.u32(payloadOffset, offset)
		b.u32(payloadLen, size)
	})
}

// and leaves the bits of mask in the register.
func (b *batch) and(mask []byte) {
	b.expr("bitwise", func() {
		b.u32(bitwiseSource, register)
		b.u32(bitwiseDest, register)
		b.u32(bitwiseLen, uint32(len(mask)))
		b.u32(bitwiseOp, 0)
		b.value(bitwiseMask, mask)
		b.value(bitwiseXor, make([]byte, len(mask)))
	})
}

func opOf(not bool) uint32 {
	if not {
		return opDiffer
	}
	return opEqual
}

func (b *batch) iface(key uint32, i abi.Iface) {
	if i.Name == "" {
		return
	}
	b.meta(key)
	name := []byte(i.Name)
	if !i.Any {
		name = append(name, 0)
	}
	b.cmp(opOf(i.Not), name)
}

// addr compares the address at an offset. Whole bytes are loaded, and no more; other
// prefixes go by a mask.
func (b *batch) addr(offset uint32, a abi.Addr) error {
	bits := a.Prefix.Bits()
	if !a.Prefix.IsValid() || bits == 0 && !a.Not {
		return nil
	}
	if bits == 0 {
		return fmt.Errorf("%w: no address at all", abi.ErrNotEncodable)
	}
	value := a.Prefix.Addr().AsSlice()
	if bits%8 == 0 {
		value = value[:bits/8]
		b.payload(networkHeader, offset, uint32(len(value)))
	} else {
		b.payload(networkHeader, offset, uint32(len(value)))
		mask := make([]byte, len(value))
		for i := range bits {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		b.and(mask)
	}
	b.cmp(opOf(a.Not), value)
	return nil
}

// match adds a match, by an expression of nf_tables' own if the tool does so.
func (b *batch) match(m *abi.Info) {
	switch {
	case m.Name == "mark" && m.Rev == 1:
		b.mark(m.Data)
	case m.Name == "tcp" && string(m.Data[:8]) == anyPort+anyPort && m.Data[8] == 0 && m.Data[9] != 0:
		const flags, mask, inverted = 10, 9, 11
		b.payload(transportHeader, tcpFlagsOffset, 1)
		b.and(m.Data[mask : mask+1])
		b.cmp(opOf(m.Data[inverted] != 0), m.Data[flags:flags+1])
	case m.Name == "tcp" && onlyDestPorts(m.Data, 12), m.Name == "udp" && onlyDestPorts(m.Data, 10):
		b.destPorts(binary.NativeEndian.Uint16(m.Data[4:]), binary.NativeEndian.Uint16(m.Data[6:]))
	default:
		b.expr("match", func() { b.compat(m) })
	}
}

// anyPort is a range in struct xt_tcp and xt_udp, which begin with one for the source and
// one for the destination.
const anyPort = "\x00\x00\xff\xff"

// onlyDestPorts reports whether a struct xt_tcp or xt_udp of size bytes matches
// destination ports and nothing else.
func onlyDestPorts(data []byte, size int) bool {
	if len(data) < size || string(data[:4]) != anyPort || string(data[4:8]) == anyPort {
		return false
	}
	for _, x := range data[8:size] {
		if x != 0 {
			return false
		}
	}
	return true
}

func (b *batch) destPorts(low, high uint16) {
	b.payload(transportHeader, destPortOffset, 2)
	from := binary.BigEndian.AppendUint16(nil, low)
	if low == high {
		b.cmp(opEqual, from)
		return
	}
	b.expr("range", func() {
		b.u32(rangeSource, register)
		b.u32(rangeOp, opEqual)
		b.value(rangeFrom, from)
		b.value(rangeTo, binary.BigEndian.AppendUint16(nil, high))
	})
}

// mark is struct xt_mark_mtinfo1.
func (b *batch) mark(data []byte) {
	b.meta(metaMark)
	if mask := data[4:8]; binary.NativeEndian.Uint32(mask) != math.MaxUint32 {
		b.and(mask)
	}
	b.cmp(opOf(data[8] != 0), data[:4])
}

func (b *batch) compat(i *abi.Info) {
	b.text(compatName, i.Name)
	b.u32(compatRevision, uint32(i.Rev))
	b.bytes(compatInfo, i.Data)
}

func (b *batch) action(r *abi.Rule) error {
	switch r.Verdict {
	case abi.Continue:
	case abi.Accept:
		b.verdict(codeAccept, "")
	case abi.Drop:
		b.verdict(codeDrop, "")
	case abi.Return:
		b.verdict(codeReturn, "")
	case abi.Jump:
		b.verdict(codeJump, r.Chain)
	case abi.Goto:
		b.verdict(codeGoto, r.Chain)
	case abi.Call:
		b.expr("target", func() { b.compat(&r.Target) })
	default:
		return fmt.Errorf("%w: verdict %d", abi.ErrNotEncodable, r.Verdict)
	}
	return nil
}

func (b *batch) verdict(code int32, chain string) {
	b.expr("immediate", func() {
		b.u32(immediateDest, registerVerdict)
		data := b.nest(immediateData)
		verdict := b.nest(dataVerdict)
		b.u32(verdictCode, uint32(code))
		if chain != "" {
			b.text(verdictChain, chain)
		}
		b.close(verdict)
		b.close(data)
	})
}
