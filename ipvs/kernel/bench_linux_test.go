package kernel

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// BenchmarkLinuxAdd adds 10 000 servers with 10 destinations each to a new
// namespace: by Apply, and by a library that waits for each answer. Run it with
// -benchtime 1x; it reports changes per second.
func BenchmarkLinuxAdd(b *testing.B) {
	ops := bulk(10000, 10)
	measure := func(b *testing.B, l *Linux, n int, do func()) {
		b.Helper()
		start := time.Now()
		do()
		b.ReportMetric(float64(n)/time.Since(start).Seconds(), "ops/s")
		servers, err := l.Servers(b.Context())
		if err != nil || len(servers) != 10000 {
			b.Fatalf("got %d servers, %v", len(servers), err)
		}
	}
	b.Run("Apply", func(b *testing.B) {
		for range b.N {
			l := newLinux(b)
			measure(b, l, len(ops), func() { must(b, l, ops...) })
		}
	})
	b.Run("moby", func(b *testing.B) {
		for range b.N {
			l := newLinux(b)
			h, err := ipvs.New("")
			if err != nil {
				b.Fatal(err)
			}
			measure(b, l, len(ops), func() { oneByOne(b, h, ops) })
			h.Close()
		}
	})
}

func oneByOne(b *testing.B, h *ipvs.Handle, ops []Op) {
	b.Helper()
	address := func(a netip.AddrPort) net.IP { return net.IP(a.Addr().AsSlice()) }
	for _, op := range ops {
		var err error
		switch op := op.(type) {
		case NewServer:
			err = h.NewService(&ipvs.Service{
				AddressFamily: unix.AF_INET, Protocol: unix.IPPROTO_TCP, Netmask: 0xffffffff,
				Address: address(op.Key.Addr), Port: op.Key.Addr.Port(), SchedName: op.Scheduler,
			})
		case NewDest:
			err = h.NewDestination(
				&ipvs.Service{AddressFamily: unix.AF_INET, Protocol: unix.IPPROTO_TCP, Address: address(op.Key.Addr), Port: op.Key.Addr.Port()},
				&ipvs.Destination{AddressFamily: unix.AF_INET, Address: address(op.Addr), Port: op.Addr.Port(), Weight: int(op.Weight)})
		}
		if err != nil {
			b.Fatalf("%v: %v", op, err)
		}
	}
}

// BenchmarkLinux measures the rest, at the same size.
func BenchmarkLinux(b *testing.B) {
	const n = 10000
	l := newLinux(b)
	must(b, l, bulk(n, 10)...)
	must(b, l, NewDevice{"kube-ipvs0"}, NewSet{Set{"FL4-A", HashIPPort, service.IPv4, 1 << 20}})
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}) }
	var elems, addrs, weights []Op
	for i := range n {
		elems = append(elems, AddElem{"FL4-A", HashIPPort, Element{Addr: at(i), Port: 80}})
		addrs = append(addrs, AddAddr{"kube-ipvs0", at(i), true})
	}
	for _, op := range bulk(n, 10) {
		if op, ok := op.(NewDest); ok {
			weights = append(weights, SetDest{op.Key, op.Addr, 2})
		}
	}
	for _, c := range []struct {
		name string
		ops  []Op
	}{{"AddElem", elems}, {"AddAddr", addrs}, {"SetDest", weights}, {"SetDestOne", weights[:1]}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				must(b, l, c.ops...)
			}
			b.ReportMetric(float64(len(c.ops)*b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
	b.Run("Servers", func(b *testing.B) {
		for b.Loop() {
			if _, err := l.Servers(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Elements", func(b *testing.B) {
		for b.Loop() {
			if _, err := l.Elements(b.Context(), "FL4-A"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Device", func(b *testing.B) {
		for b.Loop() {
			if _, err := l.Device(b.Context(), "kube-ipvs0"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
