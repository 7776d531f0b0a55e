package abi_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/abi"
)

var host = binary.NativeEndian

// ask is getsockopt on a raw socket of the family, with the question in b.
func ask(t *testing.T, f xt.Family, level, opt int, b []byte) {
	t.Helper()
	domain := syscall.AF_INET
	if f == xt.IPv6 {
		domain = syscall.AF_INET6
	}
	fd, err := syscall.Socket(domain, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	size := uint32(len(b))
	if _, _, e := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
		t.Fatal(e)
	}
}

// setIndex asks the kernel for the index of a set (SO_IP_SET, IP_SET_OP_GET_BYNAME).
func setIndex(t *testing.T, name string) uint16 {
	version := make([]byte, 8)
	host.PutUint32(version, 0x100)
	ask(t, xt.IPv4, syscall.SOL_IP, 83, version)
	b := make([]byte, 40)
	host.PutUint32(b, 6)
	copy(b[4:8], version[4:8])
	copy(b[8:], name)
	ask(t, xt.IPv4, syscall.SOL_IP, 83, b)
	return host.Uint16(b[8:])
}

// A layout is where the fields of struct ipt_entry or ip6t_entry are.
type layout struct {
	level                                    int
	addr                                     int // size of an address
	in, out, inMask, outMask                 int
	proto, flags, invert, target, next, size int
	gotoFlag                                 byte
}

func layoutOf(f xt.Family) layout {
	if f == xt.IPv6 {
		return layout{syscall.SOL_IPV6, 16, 64, 80, 96, 112, 128, 131, 132, 140, 142, 168, 4}
	}
	return layout{syscall.SOL_IP, 4, 16, 32, 48, 64, 80, 82, 83, 88, 90, 112, 2}
}

// legacyRules reads the rules of one of our chains of the legacy variant. Jumps lead to
// chains by the offset of their first rule.
func legacyRules(t *testing.T, f xt.Family, table xt.Table, chain string) []abi.Rule {
	t.Helper()
	l := layoutOf(f)
	info := make([]byte, 84)
	copy(info, table)
	ask(t, f, l.level, 64, info)
	size := host.Uint32(info[80:])
	b := make([]byte, 40+size)
	copy(b, table)
	host.PutUint32(b[32:], size)
	ask(t, f, l.level, 65, b)

	var rules []abi.Rule
	heads, inside := map[int]string{}, ""
	var jumps []int // of the rules that jump, in order
	for at := 0; at < int(size); {
		e := b[40+at:]
		next := int(host.Uint16(e[l.next:]))
		e = e[:next]
		if targetOf(e, l).Name == "ERROR" {
			inside = cString(targetOf(e, l).Data)
			heads[at+next] = inside
		} else if inside == chain {
			rule, jump := l.rule(e, at)
			rules = append(rules, rule)
			jumps = append(jumps, jump)
		}
		at += next
	}
	rules = rules[:len(rules)-1] // the end of the chain
	for i := range rules {
		rules[i].Chain = heads[jumps[i]]
	}
	return rules
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

func blob(b []byte) abi.Info {
	size := host.Uint16(b)
	return abi.Info{Name: cString(b[2:31]), Rev: b[31], Data: b[32:size]}
}

func targetOf(e []byte, l layout) abi.Info { return blob(e[host.Uint16(e[l.target:]):]) }

func (l layout) rule(e []byte, at int) (r abi.Rule, jump int) {
	inv := e[l.invert]
	r.Src = l.prefix(e, 0, inv&0x08 != 0)
	r.Dst = l.prefix(e, 1, inv&0x10 != 0)
	r.In = l.iface(e, l.in, l.inMask, inv&1 != 0)
	r.Out = l.iface(e, l.out, l.outMask, inv&2 != 0)
	r.Proto = e[l.proto]
	end := int(host.Uint16(e[l.target:]))
	for m := l.size; m < end; m += int(host.Uint16(e[m:])) {
		r.Matches = append(r.Matches, blob(e[m:]))
	}
	target := targetOf(e, l)
	if target.Name != "" {
		r.Verdict, r.Target = abi.Call, target
		return r, -1
	}
	switch v := int32(host.Uint32(target.Data)); {
	case v == -1:
		r.Verdict = abi.Drop
	case v == -2:
		r.Verdict = abi.Accept
	case v == -5:
		r.Verdict = abi.Return
	case int(v) == at+len(e):
		r.Verdict = abi.Continue
	case e[l.flags]&l.gotoFlag != 0:
		r.Verdict, jump = abi.Goto, int(v)
	default:
		r.Verdict, jump = abi.Jump, int(v)
	}
	return r, jump
}

func (l layout) prefix(e []byte, side int, not bool) abi.Addr {
	a := e[side*l.addr:][:l.addr]
	mask := e[(2+side)*l.addr:][:l.addr]
	bits := 0
	for _, m := range mask {
		for ; m != 0; m <<= 1 {
			bits++
		}
	}
	if bits == 0 && !not {
		return abi.Addr{}
	}
	addr, _ := netip.AddrFromSlice(a)
	return abi.Addr{Prefix: netip.PrefixFrom(addr, bits), Not: not}
}

func (l layout) iface(e []byte, name, mask int, not bool) abi.Iface {
	n := bytes.Count(e[mask:mask+16], []byte{0xff})
	text := cString(e[name : name+16])
	if n == 0 {
		return abi.Iface{}
	}
	return abi.Iface{Name: text[:min(n, len(text))], Any: n < len(text), Not: not}
}

// nftBlobs dumps, for each rule of a chain of the nft variant, its matches and targets
// that are not of nf_tables' own.
func nftBlobs(t *testing.T, f xt.Family, table xt.Table, chain string) [][]abi.Info {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	family := byte(syscall.AF_INET)
	if f == xt.IPv6 {
		family = syscall.AF_INET6
	}
	b := []byte{16: family, 19: 0} // struct nlmsghdr and nfgenmsg of NFT_MSG_GETRULE
	host.PutUint16(b[4:], 10<<8|7)
	host.PutUint16(b[6:], syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
	b = attr(attr(b, 1, append([]byte(table), 0)), 2, append([]byte(chain), 0))
	host.PutUint32(b, uint32(len(b)))
	if err := syscall.Sendto(fd, b, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	var rules [][]abi.Info
	buf := make([]byte, 1<<17)
	for {
		n, _, err := syscall.Recvfrom(fd, buf, 0)
		if err != nil {
			t.Fatal(err)
		}
		messages, err := syscall.ParseNetlinkMessage(slices.Clone(buf[:n]))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if m.Header.Type == syscall.NLMSG_ERROR {
				t.Fatal(syscall.Errno(-int32(host.Uint32(m.Data))))
			}
			if m.Header.Type == syscall.NLMSG_DONE {
				return rules
			}
			rules = append(rules, blobsOf(attrs(m.Data[4:])[4]))
		}
	}
}

func attr(b []byte, kind uint16, data []byte) []byte {
	b = host.AppendUint16(b, uint16(4+len(data)))
	b = append(host.AppendUint16(b, kind), data...)
	return append(b, make([]byte, -len(data)&3)...)
}

func eachAttr(b []byte, f func(kind uint16, data []byte)) {
	for len(b) >= 4 {
		size := int(host.Uint16(b))
		f(host.Uint16(b[2:])&0x3fff, b[4:size])
		b = b[min(len(b), (size+3)&^3):]
	}
}

func attrs(b []byte) map[uint16][]byte {
	m := map[uint16][]byte{}
	eachAttr(b, func(kind uint16, data []byte) { m[kind] = data })
	return m
}

// blobsOf reads the expressions "match" and "target": name, revision, bytes.
func blobsOf(exprs []byte) (out []abi.Info) {
	eachAttr(exprs, func(_ uint16, e []byte) {
		expr := attrs(e)
		if name := cString(expr[1]); name != "match" && name != "target" {
			return
		}
		a := attrs(expr[2])
		out = append(out, abi.Info{Name: cString(a[1]), Rev: a[2][3], Data: a[3]})
	})
	return out
}
