package servicetest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// hintMode is how a whole slice is hinted; hints that are complete are rare by
// chance, and without them nothing is decided.
type hintMode int

const (
	noHints hintMode = iota
	zoneHints
	nodeHints
	bothHints
	someHints
)

func (w *World) randomSlice(svc service.Name) *service.Slice {
	r := w.rng
	s := &service.Slice{
		Service: svc,
		Name:    fmt.Sprintf("%s-%d", svc.Name, r.IntN(4)),
		Family:  service.Family(r.IntN(service.NumFamilies)),
	}
	if v := w.Services[svc]; v != nil && r.IntN(10) > 0 {
		s.Family = pick(r, v.Families)
	}
	if r.IntN(3) == 0 {
		s.Weight = randomWeight(r)
	}
	if r.IntN(3) == 0 {
		s.Triggered = time.Unix(1767225600+int64(r.IntN(1000)), 0).UTC()
	}
	if v := w.Services[svc]; v != nil {
		for _, p := range v.Ports {
			if r.IntN(12) > 0 {
				s.Ports = append(s.Ports, service.SlicePort{Name: p.Name, Protocol: p.Protocol, Port: uint16(8080 + r.IntN(2))})
			}
		}
	}
	mode := hintMode(r.IntN(8))
	n := r.IntN(7)
	if r.IntN(12) == 0 {
		n = 20 + r.IntN(40)
	}
	for range n {
		s.Endpoints = append(s.Endpoints, w.randomEndpoint(s.Family, mode, n))
	}
	return s
}

// randomWeight returns a weight as a Slice has it.
func randomWeight(r *rand.Rand) uint16 { return pick(r, []uint16{0, 2, 3, 10, 65535}) }

func (w *World) randomEndpoint(f service.Family, mode hintMode, spread int) service.SliceEndpoint {
	r := w.rng
	k := 1 + r.IntN(3)
	addr, e := podAddr(f, k, 2+r.IntN(min(59, 4+spread))), service.EndpointState{Node: fmt.Sprintf("n%d", k)}
	switch r.IntN(12) {
	case 0:
		addr = nodeAddr(f, k)
	case 1:
		e.Node = ""
	}
	setCondition(&e, r)
	zones, nodes := [][]string{{"a"}, {"b"}, {"c"}, {"a", "b"}}, [][]string{{"n1"}, {"n2"}, {"n1", "n3"}}
	if mode == zoneHints || mode == bothHints || mode == someHints && r.IntN(2) == 0 {
		e.ForZones = pick(r, zones)
	}
	if mode == nodeHints || mode == bothHints || mode == someHints && r.IntN(2) == 0 {
		e.ForNodes = pick(r, nodes)
	}
	return service.NewSliceEndpoint(addr, &e)
}

// setCondition makes most endpoints ready and the rest anything the API can say.
func setCondition(e *service.EndpointState, r *rand.Rand) {
	e.Ready, e.Serving, e.Terminating = true, true, false
	switch r.IntN(10) {
	case 0:
		e.Ready, e.Serving = false, false
	case 1, 2:
		e.Ready, e.Terminating = false, true
	case 3:
		e.Ready, e.Serving, e.Terminating = false, false, true
	case 4:
		e.Ready = false
	case 5:
		if r.IntN(3) == 0 {
			e.Terminating = true // ready too: publishNotReadyAddresses
		}
	}
}

// editedSlice returns a copy of s with a few endpoints added, removed or in
// another condition.
func (w *World) editedSlice(s *service.Slice) *service.Slice {
	r, c := w.rng, *s
	c.Endpoints = slices.Clone(s.Endpoints)
	for range 1 + r.IntN(2) {
		switch n := len(c.Endpoints); {
		case n == 0 || r.IntN(3) == 0:
			c.Endpoints = append(c.Endpoints, w.randomEndpoint(c.Family, hintMode(r.IntN(8)), n))
		case r.IntN(3) == 0:
			i := r.IntN(n)
			c.Endpoints = slices.Delete(c.Endpoints, i, i+1)
		case r.IntN(4) == 0:
			r.Shuffle(n, func(i, j int) { c.Endpoints[i], c.Endpoints[j] = c.Endpoints[j], c.Endpoints[i] })
		default:
			e := &c.Endpoints[r.IntN(n)]
			state := *e.EndpointState
			setCondition(&state, r)
			*e = service.NewSliceEndpoint(e.Addr(), &state)
		}
	}
	if r.IntN(5) == 0 {
		c.Weight = randomWeight(r)
	}
	if r.IntN(3) == 0 {
		c.Triggered = time.Unix(1767225600+int64(r.IntN(1000)), 0).UTC()
	}
	return &c
}

// Flow returns a random first packet, aimed where something may happen: at the
// addresses of Services at their ports and others, at node ports on all kinds
// of addresses; from pods, endpoints themselves among them, from the node, from
// outside, within source ranges and not. It is a packet that can exist.
func (w *World) Flow() service.Flow {
	r := w.rng
	f := service.Family(r.IntN(service.NumFamilies))
	var v *service.Service
	if len(w.Services) > 0 && r.IntN(10) > 0 {
		v = w.pickService()
		if r.IntN(10) > 0 {
			f = pick(r, v.Families)
		}
	}
	fl := service.Flow{Protocol: pick(r, []service.Protocol{service.TCP, service.TCP, service.UDP, service.SCTP})}
	fl.Dst = w.destination(v, f, &fl.Protocol)
	if r.IntN(30) == 0 {
		fl.Protocol, fl.Dst = service.ICMP, netip.AddrPortFrom(fl.Dst.Addr(), 0)
	}
	w.source(&fl, f)
	return fl
}

// destination aims at v, if there is one, and then also chooses the protocol,
// mostly one that is served.
func (w *World) destination(v *service.Service, f service.Family, proto *service.Protocol) netip.AddrPort {
	r := w.rng
	addrs := []netip.Addr{clusterIP(f, 99), vip(f, 1), vip(f, 2), nodeAddr(f, 1), nodeAddr(f, 2), podAddr(f, 1, 1), podAddr(f, 2, 3)}
	ports := []uint16{80, 443, 53, 8080, 30000, 30001, 30010}
	addr, port := pick(r, addrs), pick(r, ports)
	if v == nil {
		return netip.AddrPortFrom(addr, port)
	}
	p := pick(r, v.Ports)
	if r.IntN(16) > 0 {
		*proto = p.Protocol
	}
	if own := ownAddrs(v, f); len(own) > 0 && (p.NodePort == 0 || r.IntN(2) > 0) {
		addr = pick(r, own)
		if r.IntN(12) > 0 {
			port = p.Port
		}
	} else if p.NodePort != 0 {
		local := append(slices.Clone(addrsOf(w.Node.Addrs, f)), nodeAddr(f, 1), nodeAddr(f, 1), nodeAddr(f, 1), nodeAddr(f, 2), loopback(f), vip(f, 1))
		addr = pick(r, local)
		if r.IntN(12) > 0 {
			port = p.NodePort
		}
	}
	return netip.AddrPortFrom(addr, port)
}

func ownAddrs(v *service.Service, f service.Family) []netip.Addr {
	return addrsOf(slices.Concat(v.ClusterIPs, v.ExternalIPs, v.LoadBalancerIPs), f)
}

func addrsOf(all []netip.Addr, f service.Family) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return service.FamilyOf(a) != f })
}

func loopback(f service.Family) netip.Addr {
	if f == service.IPv4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// source chooses a caller that can send to the destination of fl.
func (w *World) source(fl *service.Flow, f service.Family) {
	r := w.rng
	if fl.Dst.Addr().IsLoopback() {
		fl.Src = fl.Dst.Addr()
		return
	}
	switch r.IntN(7) {
	case 0, 1, 2:
		fl.Src, fl.In = podAddr(f, 1, 2+r.IntN(6)), "veth0102"
		if d := w.Node.Pods; d.Interface != "" && !d.IsPrefix {
			fl.In = d.Interface
		}
	case 3, 4:
		fl.Src = pick(r, addrsOf(w.Node.Addrs, f))
		if r.IntN(2) == 0 {
			fl.Src = w.Node.Primary[f]
		}
	case 5:
		fl.Src, fl.In = client(f, 1+r.IntN(5)), "eth0"
	default:
		fl.Src, fl.In = pick(r, []netip.Addr{nodeAddr(f, 2), nodeAddr(f, 3), podAddr(f, 2, 2+r.IntN(4)), client(f, 2)}), "eth0"
	}
}
