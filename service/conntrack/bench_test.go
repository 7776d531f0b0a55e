package conntrack_test

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/conntrack"
)

// BenchmarkPurge lists a table of 20,000 entries of which none is an orphan.
func BenchmarkPurge(b *testing.B) {
	runtime.LockOSThread() // for good: the thread ends with the benchmark
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Skip("needs the right to make a network namespace: ", err)
	}
	const n = 20000
	dst := netip.MustParseAddrPort("10.96.0.10:53")
	for i := range n {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 4000)
		ct := &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET, TimeOut: 300,
			Forward: ipTuple(unix.IPPROTO_UDP, src, dst), Reverse: ipTuple(unix.IPPROTO_UDP, dst, src),
		}
		if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, ct); err != nil {
			b.Fatal(err)
		}
	}
	k, err := conntrack.Open()
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	b.ReportAllocs()
	for b.Loop() {
		seen := 0
		if _, err := k.Purge(b.Context(), service.IPv4, func(service.ConntrackFlow) bool { seen++; return false }); err != nil || seen != n {
			b.Fatal(seen, err)
		}
	}
}
