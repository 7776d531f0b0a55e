package takeover

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
)

func TestKubeProxyChains(t *testing.T) {
	for ref, want := range map[xt.ChainRef]bool{
		{Table: xt.NAT, Name: "KUBE-SERVICES"}:             true,
		{Table: xt.NAT, Name: "KUBE-SVC-NPX46M4PTMTKRN6Y"}: true,
		{Table: xt.NAT, Name: "KUBE-SEP-SXIVWICOYRO3J4NJ"}: true,
		{Table: xt.NAT, Name: "KUBE-NODE-PORT"}:            true,
		{Table: xt.Filter, Name: "KUBE-IPVS-OUT-FILTER"}:   true,
		{Table: xt.Mangle, Name: "KUBE-PROXY-CANARY"}:      true,

		{Table: xt.NAT, Name: "KUBE-SVC-npx46m4ptmtkrn6y"}:    false,
		{Table: xt.NAT, Name: "KUBE-SVC-CUSTOM"}:              false,
		{Table: xt.Filter, Name: "KUBE-SVC-NPX46M4PTMTKRN6Y"}: false,
		{Table: xt.NAT, Name: "KUBE-MARK-DROP"}:               false,
		{Table: xt.Filter, Name: "KUBE-FIREWALL"}:             false,
		{Table: xt.Mangle, Name: "KUBE-IPTABLES-HINT"}:        false,
		{Table: xt.NAT, Name: "KUBE-KUBELET-CANARY"}:          false,
		{Table: xt.NAT, Name: "KUBE-ROUTER-SERVICES"}:         false,
		{Table: xt.Filter, Name: "KUBE-NWPLCY-DEFAULT"}:       false,
		{Table: xt.NAT, Name: "FL-SERVICES"}:                  false,
	} {
		if got := kubeProxy().Chain(ref); got != want {
			t.Errorf("%v is kube-proxy's: %t, want %t", ref, got, want)
		}
	}
}

func TestKubeProxySets(t *testing.T) {
	for name, want := range map[string]bool{
		"KUBE-CLUSTER-IP": true, "KUBE-6-CLUSTER-IP": true, "KUBE-6-LOAD-BALANCER-SOURCE-CID": true,
		"KUBE-6-NODE-PORT-LOCAL-SCTP-HAS": true, "KUBE-IPVS-IPS": true, "KUBE-6-IPVS-IPS": true,
		"KUBE-CUSTOM": false, "KUBE-6-": false, "FL4-VIP": false, "KUBE-DST-XYZ": false,
	} {
		if _, got := useOf(name); got != want {
			t.Errorf("%s is kube-proxy's: %t, want %t", name, got, want)
		}
	}
}

// A flowLog notes which flows a Purge would delete of those there are.
type flowLog struct{ flows, deleted []service.ConntrackFlow }

func (l *flowLog) Purge(_ context.Context, f service.Family, orphan func(service.ConntrackFlow) bool) (int, error) {
	n := 0
	for _, c := range l.flows {
		if service.FamilyOf(c.OrigDst.Addr()) == f && orphan(c) {
			l.deleted = append(l.deleted, c)
			n++
		}
	}
	return n, nil
}

func key(p service.Protocol, at string) kernel.ServerKey {
	return kernel.ServerKey{Addr: netip.MustParseAddrPort(at), Protocol: p}
}

var (
	clusterIP = netip.MustParseAddr("10.96.0.10")
	foreignIP = netip.MustParseAddr("192.0.2.79")
	halfwayIP = netip.MustParseAddr("10.96.0.11") // kube-proxy was stopped before it named its server
	nodeIP    = netip.MustParseAddr("172.18.0.11")
	dest      = netip.MustParseAddrPort("10.244.1.2:8080")
)

// leftKernel is what kube-proxy leaves in ipvs mode, beside what is somebody else's.
func leftKernel(t *testing.T) *kernel.Fake {
	t.Helper()
	k := kernel.NewFake()
	ops := []kernel.Op{
		kernel.NewDevice{Name: device},
		kernel.AddAddr{Device: device, Addr: clusterIP}, kernel.AddAddr{Device: device, Addr: foreignIP}, kernel.AddAddr{Device: device, Addr: halfwayIP},
		kernel.NewSet{Set: kernel.Set{Name: "KUBE-CLUSTER-IP", Type: kernel.HashIPPort, MaxElem: 100}},
		kernel.NewSet{Set: kernel.Set{Name: "KUBE-NODE-PORT-TCP", Type: kernel.BitmapPort}},
		kernel.NewSet{Set: kernel.Set{Name: "KUBE-IPVS-IPS", Type: kernel.HashIP, MaxElem: 100}},
		kernel.NewSet{Set: kernel.Set{Name: "KUBE-CUSTOM", Type: kernel.HashIP, MaxElem: 100}},
		kernel.AddElem{Set: "KUBE-CLUSTER-IP", Type: kernel.HashIPPort, Elem: kernel.Element{Addr: clusterIP, Port: 80, Protocol: service.TCP}},
		kernel.AddElem{Set: "KUBE-CLUSTER-IP", Type: kernel.HashIPPort, Elem: kernel.Element{Addr: clusterIP, Port: 53, Protocol: service.UDP}},
		kernel.AddElem{Set: "KUBE-NODE-PORT-TCP", Type: kernel.BitmapPort, Elem: kernel.Element{Port: 30001}},
		kernel.AddElem{Set: "KUBE-IPVS-IPS", Type: kernel.HashIP, Elem: kernel.Element{Addr: clusterIP}},
	}
	for _, s := range []kernel.ServerKey{
		key(service.TCP, "10.96.0.10:80"), key(service.UDP, "10.96.0.10:53"), key(service.TCP, "172.18.0.11:30001"),
		key(service.TCP, "192.0.2.80:80"), key(service.TCP, "192.0.2.80:30001"), key(service.TCP, "172.18.0.11:443"), key(service.TCP, "10.96.0.11:80"),
	} {
		ops = append(ops, kernel.NewServer{Key: s, Server: kernel.Server{Scheduler: "rr"}}, kernel.NewDest{Key: s, Addr: dest, Weight: 1})
	}
	refused, err := k.Apply(t.Context(), ops)
	if err != nil || len(refused) > 0 {
		t.Fatal(refused, err)
	}
	return k
}

type taking struct {
	*Taker
	k       *kernel.Fake
	flows   *flowLog
	sockets map[netip.Addr]bool
	rehomed []netip.Addr
}

func newTaking(t *testing.T, mode Mode, exclude ...netip.Prefix) *taking {
	t.Helper()
	x := &taking{k: leftKernel(t), flows: &flowLog{}, sockets: map[netip.Addr]bool{}}
	log := slog.New(slog.DiscardHandler)
	left, proxy := ipvs.DefaultConfig(), userspace.DefaultConfig()
	left.Log, proxy.Log, left.Exclude = log, log, exclude
	x.Taker = New(Config{
		Mode: mode, Kernel: x.k, Flows: x.flows, IPVS: left, Userspace: proxy, Log: log,
		Local:   func() ([]netip.Addr, error) { return []netip.Addr{nodeIP}, nil },
		Sockets: func() (map[netip.Addr]bool, error) { return x.sockets, nil },
		Rehome: func(virtual, _ netip.Addr) error {
			x.rehomed = append(x.rehomed, virtual)
			return nil
		},
		Source: [service.NumFamilies]netip.Addr{service.IPv4: nodeIP},
	})
	return x
}

func (x *taking) pass(t *testing.T, want Result) {
	t.Helper()
	r, err := x.Pass(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, want); d != "" {
		t.Errorf("result (-got +want):\n%s", d)
	}
}

func (x *taking) servers(t *testing.T) []string {
	t.Helper()
	all, err := x.k.Servers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for k := range all {
		out = append(out, k.String())
	}
	slices.Sort(out)
	return out
}

func (x *taking) addrs(t *testing.T) []netip.Addr {
	t.Helper()
	dev, err := x.k.Device(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	return slices.SortedFunc(maps.Keys(dev.Addrs), netip.Addr.Compare)
}

var bystanders = []string{"tcp 172.18.0.11:443", "tcp 192.0.2.80:30001", "tcp 192.0.2.80:80"}

func TestPassIPVS(t *testing.T) {
	x := newTaking(t, IPTables)
	x.flows.flows = []service.ConntrackFlow{
		{Protocol: service.UDP, OrigDst: netip.MustParseAddrPort("10.96.0.10:53")},
		{Protocol: service.UDP, OrigDst: netip.MustParseAddrPort("10.96.0.10:54")},
	}
	x.pass(t, Result{Servers: 4, Addresses: 2, Sets: 3})
	if d := cmp.Diff(x.servers(t), bystanders); d != "" {
		t.Errorf("servers (-got +want):\n%s", d)
	}
	if d := cmp.Diff(x.addrs(t), []netip.Addr{foreignIP}, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("addresses (-got +want):\n%s", d)
	}
	if !x.k.Has("KUBE-CUSTOM") || x.k.Has("KUBE-CLUSTER-IP") {
		t.Error("sets: want those of kube-proxy gone, and no other")
	}
	if d := cmp.Diff(x.flows.deleted, x.flows.flows[:1], cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Errorf("flows forgotten (-got +want):\n%s", d)
	}
	x.pass(t, Result{})
}

func TestPassDrains(t *testing.T) {
	x := newTaking(t, IPTables)
	busy := key(service.TCP, "10.96.0.10:80")
	x.k.SetConns(busy, dest, kernel.Conns{Active: 1})
	x.pass(t, Result{Servers: 3, Addresses: 1, Draining: 1, Held: 1})
	s, err := x.k.Server(t.Context(), busy)
	if err != nil || s == nil || s.Dests[0].Weight != 0 {
		t.Fatalf("the server with a connection: %v, %v, want weight 0", s, err)
	}
	x.k.SetConns(busy, dest, kernel.Conns{Inactive: 1}) // half of it closed
	x.pass(t, Result{Draining: 1, Held: 1})
	x.k.SetConns(busy, dest, kernel.Conns{})
	x.sockets[clusterIP] = true // of the node
	x.pass(t, Result{Servers: 1, Held: 1})
	x.pass(t, Result{Held: 1})
	if len(x.rehomed) != 1 || x.rehomed[0] != clusterIP {
		t.Errorf("rehomed %v, want %v once", x.rehomed, clusterIP)
	}
	x.sockets = nil
	x.pass(t, Result{Addresses: 1, Sets: 3})
}

// TestPassCuts removes servers with connections too where a proxy answers at their addresses.
func TestPassCuts(t *testing.T) {
	x := newTaking(t, Userspace)
	x.k.SetConns(key(service.TCP, "10.96.0.10:80"), dest, kernel.Conns{Active: 1})
	x.pass(t, Result{Servers: 4, Addresses: 2, Sets: 3})
	if d := cmp.Diff(x.servers(t), bystanders); d != "" {
		t.Errorf("servers (-got +want):\n%s", d)
	}
}

// TestPassBesideIPVS leaves alone what the dataplane in force has adopted.
func TestPassBesideIPVS(t *testing.T) {
	x := newTaking(t, IPVS)
	_, err := x.k.Apply(t.Context(), []kernel.Op{
		kernel.NewSet{Set: kernel.Set{Name: "FL4-OWN", Type: kernel.HashIPPort, MaxElem: 100}},
		kernel.NewSet{Set: kernel.Set{Name: "FL4-ADDR", Type: kernel.HashIP, MaxElem: 100}},
		kernel.AddElem{Set: "FL4-OWN", Type: kernel.HashIPPort, Elem: kernel.Element{Addr: clusterIP, Port: 80, Protocol: service.TCP}},
		kernel.AddElem{Set: "FL4-ADDR", Type: kernel.HashIP, Elem: kernel.Element{Addr: clusterIP}},
	})
	if err != nil {
		t.Fatal(err)
	}
	x.pass(t, Result{Servers: 3, Addresses: 1, Sets: 3})
	if d := cmp.Diff(x.servers(t), append([]string{"tcp 10.96.0.10:80"}, bystanders...)); d != "" {
		t.Errorf("servers (-got +want):\n%s", d)
	}
	if got := x.addrs(t); !slices.Contains(got, clusterIP) {
		t.Errorf("addresses %v, want ours among them", got)
	}
}

func TestPassExcluded(t *testing.T) {
	x := newTaking(t, IPTables, netip.MustParsePrefix("10.96.0.0/16"))
	x.pass(t, Result{Servers: 1, Sets: 3})
	if got := x.servers(t); len(got) != 6 || !slices.Contains(x.addrs(t), clusterIP) {
		t.Errorf("servers %v and addresses %v, want those of the excluded network among them", got, x.addrs(t))
	}
}

// TestPassOwn removes what fairlead has left in ipvs mode.
func TestPassOwn(t *testing.T) {
	x := newTaking(t, IPTables)
	x.k = kernel.NewFake()
	x.cfg.Kernel = x.k
	own := key(service.TCP, "10.96.0.10:80")
	_, err := x.k.Apply(t.Context(), []kernel.Op{
		kernel.NewDevice{Name: device}, kernel.AddAddr{Device: device, Addr: clusterIP, Routed: true},
		kernel.NewSet{Set: kernel.Set{Name: "FL4-OWN", Type: kernel.HashIPPort, MaxElem: 100}},
		kernel.NewSet{Set: kernel.Set{Name: "FL4-ADDR", Type: kernel.HashIP, MaxElem: 100}},
		kernel.NewSet{Set: kernel.Set{Name: "FLU4-VIP", Type: kernel.HashIPPort, MaxElem: 100}},
		kernel.AddElem{Set: "FL4-OWN", Type: kernel.HashIPPort, Elem: kernel.Element{Addr: clusterIP, Port: 80, Protocol: service.TCP}},
		kernel.AddElem{Set: "FL4-ADDR", Type: kernel.HashIP, Elem: kernel.Element{Addr: clusterIP}},
		kernel.NewServer{Key: own, Server: kernel.Server{Scheduler: "rr"}}, kernel.NewDest{Key: own, Addr: dest, Weight: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	x.k.SetConns(own, dest, kernel.Conns{Active: 2})
	x.pass(t, Result{Sets: 1, Draining: 1})
	if len(x.servers(t)) != 1 || len(x.addrs(t)) != 1 || !x.k.Has("FL4-OWN") {
		t.Errorf("servers %v, addresses %v: want all of it until the connections have ended", x.servers(t), x.addrs(t))
	}
	x.k.SetConns(own, dest, kernel.Conns{})
	x.pass(t, Result{Servers: 1, Addresses: 1, Sets: 2})
	if dev, err := x.k.Device(t.Context(), device); err != nil || dev.Exists {
		t.Errorf("the device is still there: %v, %v", dev, err)
	}
	x.pass(t, Result{})
}
