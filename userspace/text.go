package userspace

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// AppendText appends what the proxy serves and what the sets hold, sorted: who may
// get to which endpoints, and elements as "ipset save" prints them.
func (st *State) AppendText(b []byte) []byte {
	for _, f := range st.cfg.families() {
		b = st.appendServed(b, f)
		held := st.Elements()
		for _, name := range slices.Sorted(maps.Keys(held)) {
			if !strings.HasPrefix(name, setPrefix(f)) {
				continue
			}
			for _, e := range held[name] {
				b = fmt.Appendf(b, "add %s %s\n", name, elementText(e))
			}
		}
	}
	return b
}

func (st *State) appendServed(b []byte, f service.Family) []byte {
	places := slices.SortedFunc(maps.Keys(st.places), func(a, b Place) int {
		if a.Protocol != b.Protocol {
			return int(a.Protocol) - int(b.Protocol)
		}
		return a.Addr.Compare(b.Addr)
	})
	for _, at := range places {
		c := st.places[at]
		if service.FamilyOf(at.Addr.Addr()) != f || at.Protocol == service.SCTP {
			continue
		}
		for o := range service.Origin(service.NumOrigins) {
			r := &c.frontend.Routes[o]
			if r.Verdict == service.Forward && (o != service.FromPod || st.node.Pods.Detects(f)) {
				b = fmt.Appendf(b, "serve %s %s to %s: %s%s\n", at.Protocol, at.Addr, o, poolText(r.Pool), sourceText(r))
			}
		}
	}
	return b
}

func poolText(p service.Pool) string {
	var words []string
	for _, e := range p {
		word := e.Addr.String()
		if e.Share() != 1 {
			word += fmt.Sprintf(" (weight %d)", e.Share())
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

func sourceText(r *service.Route) string {
	if r.Masquerade {
		return " as the node"
	}
	return ""
}

// elementText is e as ipset(8) writes it.
func elementText(e kernel.Element) string {
	if !e.Addr.IsValid() {
		return fmt.Sprint(e.Port)
	}
	text := e.Addr.String()
	if e.Port != 0 {
		text += fmt.Sprintf(",%s:%d", e.Protocol, e.Port)
	}
	if e.Net.IsValid() {
		text += "," + e.Net.String()
	}
	return text
}

// Holds reports whether a set holds what a packet from src is sent to.
func (st *State) Holds(set string, src netip.Addr, at Place) bool {
	f := service.FamilyOf(at.Addr.Addr())
	for id := range setID(numSets) {
		if setName(f, id) != set {
			continue
		}
		m := at.in(id)
		switch id {
		case setHealth:
			m.elem = kernel.Element{Port: at.Addr.Port()}
			return at.Protocol == service.TCP && st.wants(m)
		case setCluster:
			m.elem = kernel.Element{Addr: at.Addr.Addr()}
		case setAllowed:
			return st.allows(at, src)
		}
		return st.wants(m)
	}
	return false
}

func (st *State) allows(at Place, src netip.Addr) bool {
	c, ok := st.places[at]
	return ok && slices.ContainsFunc(c.frontend.Sources, func(p netip.Prefix) bool { return p.Contains(src) })
}

// Outcome says what the proxy makes of a packet that the rules have handed to the
// socket at an address.
func (st *State) Outcome(at Place, src netip.Addr, socket netip.AddrPort) (service.Outcome, error) {
	o := slices.Index(st.cfg.Ports[:], socket.Port())
	c, ok := st.places[at]
	if o < 0 || !ok || c.frontend.Routes[o].Verdict != service.Forward {
		return service.Outcome{}, fmt.Errorf("the proxy does not serve %s %v at %v", at.Protocol, at.Addr, socket)
	}
	out := service.Outcome{Verdict: service.Forward}
	r := &c.frontend.Routes[o]
	for _, ep := range r.Pool {
		masq := !keepsSource(st.node, r, src, ep.Addr.Addr())
		out.Hops = append(out.Hops, service.Hop{Endpoint: service.Endpoint{Addr: ep.Addr}, Masquerade: masq})
	}
	return out, nil
}

// Routed reports whether a mark routes a packet to the node.
func (st *State) Routed(mark uint32) bool { return mark&st.cfg.routeMark() != 0 }
