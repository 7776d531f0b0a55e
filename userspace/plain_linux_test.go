package userspace

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/fairlead-project/fairlead/service"
)

// TestPlainCallers: a plain proxy serves the node itself, also where its kernel lets
// neighbours send to loopback addresses, and hides no endpoint from anybody else.
func TestPlainCallers(t *testing.T) {
	cfg := ProxyConfig{Config: DefaultConfig()}
	cfg.Log = slog.New(slog.DiscardHandler)
	p, err := NewPlainProxy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	own := netip.MustParseAddr("172.18.0.11")
	endpoint := netip.MustParseAddrPort("10.244.1.2:8080")
	port := &service.Port{ID: service.PortID{Service: service.Name{Namespace: "default", Name: "web"}}}
	fe := service.Frontend{Kind: service.NodePort, Addr: netip.MustParseAddrPort("0.0.0.0:30001")}
	fe.Routes[service.FromHost] = service.Route{Verdict: service.Forward, Pool: service.Pool{{Addr: endpoint}}}
	port.Frontends = []service.Frontend{fe}
	at := Place{service.TCP, netip.MustParseAddrPort("127.0.0.1:30001")}
	p.Follow(&service.Node{Addrs: []netip.Addr{own}}, []PortChange{{New: port}}, []PlaceChange{{at, port, &port.Frontends[0]}})
	for _, c := range []struct {
		client string
		want   bool
	}{
		{"127.0.0.1", true}, {"127.0.0.9", true}, {"172.18.0.11", true},
		{"172.18.0.12", false}, {"10.244.1.2", false}, {"198.51.100.1", false},
	} {
		j := p.Accepted(netip.AddrPortFrom(netip.MustParseAddr(c.client), 4000), at.Addr, service.FromHost)
		if (j != nil) != c.want {
			t.Errorf("%s is served: %t, want %t", c.client, j != nil, c.want)
			continue
		}
		if j == nil {
			continue
		}
		if got, ok := j.Next(); !ok || got.Addr != endpoint || got.Source.IsValid() {
			t.Errorf("%s is sent to %+v, %t; want %v, from the node's own address", c.client, got, ok, endpoint)
		}
	}
	if j := p.Accepted(netip.MustParseAddrPort("127.0.0.1:4000"), netip.MustParseAddrPort("127.0.0.1:30002"), service.FromHost); j != nil {
		t.Error("somebody is served where nothing is")
	}
	if err := p.Listen(Place{service.SCTP, at.Addr}); err == nil {
		t.Error("it listens for SCTP")
	}
}
