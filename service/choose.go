package service

import (
	"net/netip"
	"slices"
)

// A desk is where choices are made. What lies on it is used again for the next
// one, so that a choice allocates only what it keeps. The zero desk is ready for
// use.
type desk struct {
	candidate []candidate

	cluster, local, serving, departing, drainCluster, drainLocal Pool
}

// clear forgets what the last choice was about, and frees what an unusually large
// one needed.
func (d *desk) clear() {
	if cap(d.candidate) > 1024 {
		*d = desk{}
		return
	}
	clear(d.candidate[:cap(d.candidate)])
}

// A candidate is one endpoint of a port before any choice is made.
type candidate struct {
	addr   netip.AddrPort
	local  bool
	weight uint16
	*EndpointState
}

// usable reports whether c may ever receive new connections: it is ready, or
// it still serves while it terminates (the fallback of KEP-1669).
func (c *candidate) usable() bool { return c.Ready || c.draining() }

func (c *candidate) draining() bool { return c.Serving && c.Terminating }

// better reports whether c is to be preferred to o, which has the same address:
// a pod that lives over one that terminates and left its address behind, then
// the ready one.
func (c *candidate) better(o *candidate) bool {
	if c.Terminating != o.Terminating {
		return o.Terminating
	}
	return c.Ready && !o.Ready
}

// candidates returns the endpoints of one port, sorted by address, each address
// once, with the weight of the slice it is taken from. Slices must be sorted by
// name, so that ties have one outcome. The result is good until the next call.
func (d *desk) candidates(all []*Slice, id PortID, node string) []candidate {
	out := d.candidate[:0]
	for _, sl := range all {
		if sl.Family != id.Family {
			continue
		}
		for _, p := range sl.Ports {
			if p.Name != id.Port || p.Protocol != id.Protocol {
				continue
			}
			for i := range sl.Endpoints {
				ep := &sl.Endpoints[i]
				out = append(out, candidate{
					addr:          netip.AddrPortFrom(ep.Addr(), p.Port),
					local:         ep.Node != "" && ep.Node == node,
					weight:        sl.Weight,
					EndpointState: ep.EndpointState,
				})
			}
		}
	}
	d.candidate = out
	slices.SortStableFunc(out, func(a, b candidate) int { return a.addr.Compare(b.addr) })
	kept := out[:0]
	for _, c := range out {
		switch last := len(kept) - 1; {
		case last < 0 || kept[last].addr != c.addr:
			kept = append(kept, c)
		case c.better(&kept[last]):
			kept[last] = c
		}
	}
	return kept
}

// A choice is which endpoints of one port may be used, for whom.
type choice struct {
	cluster   Pool // for callers without a locality constraint
	local     Pool // for those who must stay on this node
	serving   Pool // everything that still serves
	departing Pool // everything that terminates, whether it still serves or not
	any       bool // something is usable somewhere in the cluster
}

// choose makes the choice among the candidates of one port, by the rules of
// KEP-1669 (terminating endpoints), KEP-2433 (hints by zone) and KEP-3015 (hints
// by node). Hints never narrow the local pool. A pool falls back to endpoints
// that terminate but still serve when nothing ready is in it, each pool for
// itself and, for the cluster pool, without regard to hints.
func (d *desk) choose(cs []candidate, node *Node) choice {
	hint := hinted(cs, node)
	c := choice{cluster: d.cluster[:0], local: d.local[:0], serving: d.serving[:0], departing: d.departing[:0]}
	drainCluster, drainLocal := d.drainCluster[:0], d.drainLocal[:0]
	for i := range cs {
		cand := &cs[i]
		ep := Endpoint{Addr: cand.addr, Weight: cand.weight}
		if cand.Serving {
			c.serving = append(c.serving, ep)
		}
		if cand.Terminating {
			c.departing = append(c.departing, ep)
		}
		if !cand.usable() {
			continue
		}
		c.any = true
		switch {
		case cand.Ready:
			if hint == nil || hint(cand) {
				c.cluster = append(c.cluster, ep)
			}
			if cand.local {
				c.local = append(c.local, ep)
			}
		case cand.local:
			drainLocal = append(drainLocal, ep)
			fallthrough
		default:
			drainCluster = append(drainCluster, ep)
		}
	}
	d.cluster, d.local, d.serving, d.departing = c.cluster, c.local, c.serving, c.departing
	d.drainCluster, d.drainLocal = drainCluster, drainLocal
	if len(c.cluster) == 0 {
		c.cluster = drainCluster
	}
	if len(c.local) == 0 {
		c.local = drainLocal
	}
	return c.shared()
}

// shared returns c with pools of its own, of just their size. Equal pools, weights
// included, are one slice, which saves memory and lets a dataplane see that they
// are equal.
func (c choice) shared() choice {
	out := c
	out.cluster = c.cluster.clone()
	own := func(p Pool) Pool {
		if slices.Equal(c.cluster, p) {
			return out.cluster
		}
		return p.clone()
	}
	out.local, out.serving, out.departing = own(c.local), own(c.serving), own(c.departing)
	return out
}

// clone returns p in an array of its length, nil if it is empty.
func (p Pool) clone() Pool {
	if len(p) == 0 {
		return nil
	}
	out := make(Pool, len(p))
	copy(out, p)
	return out
}

// hinted returns the filter that topology hints ask for on this node, or nil if
// every ready endpoint is as good as any other. Hints count only if every ready
// endpoint has them and at least one names us; node hints come before zone
// hints.
func hinted(cs []candidate, node *Node) func(*candidate) bool {
	byNode := func(c *candidate) bool { return slices.Contains(c.ForNodes, node.Name) }
	byZone := func(c *candidate) bool { return slices.Contains(c.ForZones, node.Zone) }
	allNodes, allZones, ourNode, ourZone := true, node.Zone != "", false, false
	for i := range cs {
		c := &cs[i]
		if !c.Ready {
			continue
		}
		allNodes = allNodes && len(c.ForNodes) > 0
		allZones = allZones && len(c.ForZones) > 0
		ourNode = ourNode || byNode(c)
		ourZone = ourZone || byZone(c)
	}
	switch {
	case allNodes && ourNode:
		return byNode
	case allZones && ourZone:
		return byZone
	default:
		return nil
	}
}
