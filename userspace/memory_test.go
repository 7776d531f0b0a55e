package userspace

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/fairlead-project/fairlead/service"
)

// portsOf makes n Ports with a cluster IP and ten endpoints each.
func portsOf(n int) []*service.Port {
	ports := make([]*service.Port, 0, n)
	for i := range n {
		var pool service.Pool
		for j := range 10 {
			pool = append(pool, service.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(i), byte(j)}), 80)})
		}
		id := service.PortID{Service: service.Name{Namespace: "default", Name: fmt.Sprintf("svc-%05d", i)}}
		fe := service.Frontend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)}
		for o := range fe.Routes {
			fe.Routes[o] = service.Route{Verdict: service.Forward, Pool: pool}
		}
		ports = append(ports, &service.Port{ID: id, Frontends: []service.Frontend{fe}, Cluster: pool, Serving: pool})
	}
	return ports
}

// TestStateMemory holds that a State holds little beside the Snapshot.
func TestStateMemory(t *testing.T) {
	const n = 7000 // at which a map has the most room that it does not use, or nearly
	snap := &service.Snapshot{Ports: service.NewPortList(portsOf(n)...)}
	before := heap()
	st, _ := Plan(snap, DefaultConfig())
	took := (heap() - before) / n
	elems := st.Elements()
	if vips, addrs := len(elems["FLU4-VIP"]), len(elems["FLU4-CLUSTER"]); vips != n || addrs != n {
		t.Fatalf("%d addresses and ports, %d addresses, of %d Services", vips, addrs, n)
	}
	runtime.KeepAlive(snap)
	t.Logf("%d bytes for each Service", took)
	if took > 300 {
		t.Errorf("%d bytes for each Service with one address and port, want at most 300", took)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
