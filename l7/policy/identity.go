package policy

import (
	"net/netip"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/route"
)

// maxHops bounds how far back through proxies anybody is believed.
const maxHops = 64

// An Identity is who asks, and under which scheme, host and port, as far as that can be known: what trusted proxies in front of
// this one say, and else what the connection says.
type Identity struct {
	Peer    netip.AddrPort // who speaks to us, after PROXY protocol
	Trusted bool           // Peer is a trusted proxy, so its fields count
	Client  netip.AddrPort // the first that no trusted proxy vouches for; without a port unless one was said
	Scheme  string         // "http" or "https", or nothing if no trusted peer says
	Host    string         // from X-Forwarded-Host, or nothing
	Port    string         // from X-Forwarded-Port, or nothing
}

// Resolve reads the forwarding fields of h, if peer is trusted, from the right: each proxy appends who asked it, so the rightmost
// address that is not a trusted proxy's is the client, and what stands left of it may be invented. An element
// which is no address ends the walk at the proxy that wrote it.
func (f *Forwarder) Resolve(peer netip.AddrPort, h exchange.Header) Identity {
	peer = netip.AddrPortFrom(peer.Addr().Unmap().WithZone(""), peer.Port())
	id := Identity{Peer: peer, Client: peer}
	if !f.trusted.contains(peer.Addr()) {
		return id
	}
	id.Trusted = true
	hops := list(h, f.source)
	protos, hosts, ports := list(h, "X-Forwarded-Proto"), list(h, "X-Forwarded-Host"), list(h, "X-Forwarded-Port")
	if len(hops) == 0 && f.forwarded {
		hops, protos, hosts = fromForwarded(h)
	}
	steps := 0
	for i := len(hops) - 1; i >= 0 && steps < maxHops; i-- {
		ap, ok := parseNode(hops[i])
		if !ok {
			break
		}
		id.Client = ap
		steps++
		if !f.trusted.contains(ap.Addr()) {
			break
		}
	}
	if p := strings.ToLower(at(protos, steps)); p == "http" || p == "https" {
		id.Scheme = p
	} else if p == "wss" || p == "ws" {
		id.Scheme = "http" + p[2:]
	}
	if len(hosts) != 0 && hosts[0] != "" {
		if _, _, err := route.ParseHost(hosts[0]); err == nil {
			id.Host = hosts[0]
		}
	}
	if p := at(ports, steps); digits(p) {
		id.Port = p
	}
	return id
}

// at is the element of a list that was written by the proxy which wrote the client's address, steps from the right. Where
// the list is shorter, not every proxy writes it, and its leftmost element is meant.
func at(list []string, steps int) string {
	if len(list) == 0 {
		return ""
	}
	return list[max(len(list)-max(steps, 1), 0)]
}

// list returns the elements of all fields of that name, which are lists with commas.
func list(h exchange.Header, name string) []string {
	var out []string
	for _, f := range h {
		if len(f.Name) != len(name) || !strings.EqualFold(f.Name, name) {
			continue
		}
		for e := range strings.SplitSeq(f.Value, ",") {
			if e = strings.TrimSpace(e); e != "" {
				out = append(out, e)
			}
		}
	}
	return out
}

// parseNode reads an address, with a port or without: 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80.
func parseNode(s string) (netip.AddrPort, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a.Unmap().WithZone(""), 0), true
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			a, err := netip.ParseAddr(inner)
			return netip.AddrPortFrom(a.WithZone(""), 0), err == nil && a.Is6()
		}
	}
	ap, err := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), err == nil
}
