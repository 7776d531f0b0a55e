package userspace

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"testing"

	"github.com/fairlead-project/fairlead/service"
)

// TestPortsNobodyCalls holds that a Port costs next to nothing before it is called.
func TestPortsNobodyCalls(t *testing.T) {
	cfg := ProxyConfig{Config: DefaultConfig()}
	cfg.Log = slog.New(slog.DiscardHandler)
	p, err := NewPlainProxy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const n = 1000
	var changes []PortChange
	for i := range n {
		var pool service.Pool
		for j := range 10 {
			pool = append(pool, service.Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), byte(j)}), 80)})
		}
		port := &service.Port{ID: service.PortID{Service: service.Name{Namespace: "default", Name: fmt.Sprint(i)}}, Serving: pool}
		port.Frontends = make([]service.Frontend, 1)
		for o := range port.Frontends[0].Routes {
			port.Frontends[0].Routes[o] = service.Route{Verdict: service.Forward, Pool: pool}
		}
		changes = append(changes, PortChange{New: port})
	}
	empty := heap()
	p.Follow(&service.Node{}, changes, nil)
	idle := heap() - empty
	for _, c := range changes {
		p.stateOf(c.New.ID).balancer()
	}
	called := heap() - empty
	runtime.KeepAlive(changes)
	t.Logf("%d bytes for each Port, %d once it was called", idle/n, called/n)
	if idle/n > 400 || called < 2*idle {
		t.Errorf("%d bytes for each Port, and %d once it was called", idle/n, called/n)
	}
}
