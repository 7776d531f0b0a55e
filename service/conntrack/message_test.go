package conntrack

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// TestListingIsFiltered requires the kernel to leave out what is not UDP, and
// the plain listing, for kernels before 5.8, to come to the same end.
func TestListingIsFiltered(t *testing.T) {
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make a network namespace")
	} else if err != nil {
		t.Fatal(err)
	}
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		ct := &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET, TimeOut: 100,
			Forward: netlink.IPTuple{Protocol: proto, SrcIP: a.AsSlice(), SrcPort: 1, DstIP: b.AsSlice(), DstPort: 2},
			Reverse: netlink.IPTuple{Protocol: proto, SrcIP: b.AsSlice(), SrcPort: 2, DstIP: a.AsSlice(), DstPort: 1},
		}
		if proto == unix.IPPROTO_TCP {
			ct.ProtoInfo = &netlink.ProtoInfoTCP{State: 3}
		}
		if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, ct); err != nil {
			t.Fatal(err)
		}
	}
	want := []service.ConntrackFlow{{
		Protocol: service.UDP,
		OrigSrc:  netip.AddrPortFrom(a, 1), OrigDst: netip.AddrPortFrom(b, 2),
		ReplySrc: netip.AddrPortFrom(b, 2), ReplyDst: netip.AddrPortFrom(a, 1),
	}}
	for plain, messages := range map[bool]int{false: 1, true: 2} {
		k.plain = plain
		var got []service.ConntrackFlow
		seen := 0
		err := k.dump(service.IPv4, func(payload []byte) error {
			seen++
			if e, ok := parse(payload); ok {
				got = append(got, e.flow)
			}
			return nil
		})
		if err != nil || seen != messages {
			t.Errorf("plain=%t: %d messages, %v, want %d", plain, seen, err, messages)
		}
		if d := cmp.Diff(got, want, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
			t.Errorf("plain=%t: entries (-got +want):\n%s", plain, d)
		}
	}
}

func TestZoneIsPartOfTheKey(t *testing.T) {
	e := entry{orig: []byte{1, 2, 3, 4}, zone: []byte{0, 7}}
	var got []uint16
	for kind := range attrs(e.appendKey(nil)) {
		got = append(got, kind)
	}
	if d := cmp.Diff(got, []uint16{attrTupleOrig, attrZone}); d != "" {
		t.Errorf("attributes of a deletion (-got +want):\n%s", d)
	}
}

// FuzzParse requires that no message, however broken, is taken for an entry
// without the tuple that limits a deletion to it.
func FuzzParse(f *testing.F) {
	f.Add(appendUDPOnly(appendGen(nil, service.IPv4)))
	tup := func(src, dst byte) []byte {
		ip := appendAttr(appendAttr(nil, ipv4Src, 192, 0, 2, src), ipv4Dst, 192, 0, 2, dst)
		proto := appendAttr(appendAttr(appendAttr(nil, protoNum, unix.IPPROTO_UDP), protoSrcPort, 0, 1), protoDstPort, 0, 2)
		return appendAttr(appendAttr(nil, tupleIP, ip...), tupleProto, proto...)
	}
	whole := appendAttr(appendGen(nil, service.IPv4), attrTupleOrig, tup(1, 2)...)
	f.Add(appendAttr(appendAttr(whole, attrTupleReply, tup(2, 1)...), attrID, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, ok := parse(payload)
		if ok && (len(e.orig) == 0 || !e.flow.OrigDst.IsValid() || !e.flow.ReplySrc.IsValid()) {
			t.Errorf("parse(%x) = %+v", payload, e)
		}
	})
}
