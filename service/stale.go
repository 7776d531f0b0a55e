package service

import "net/netip"

// A ConntrackFlow is what Stale needs of one connection-tracking entry: where
// the client sent its packets, and where the answers come from. The two are
// equal when the entry is not translated.
type ConntrackFlow struct {
	Protocol Protocol
	OrigDst  netip.AddrPort
	ReplySrc netip.AddrPort
}

// A Stale says which UDP flows a change of Snapshots leaves behind: a UDP
// client that keeps its socket would otherwise be sent to a gone endpoint, or
// to none, for as long as it sends. TCP clients reconnect and are left alone.
//
// It judges by the serving endpoints and ignores policy on purpose, so that a
// flow to an endpoint that drains, or that another Route would not pick today,
// lives on. A Stale is not changed after NewStale but by Merge.
type Stale struct {
	rules map[netip.AddrPort]staleRule
	local map[netip.Addr]bool
}

// A staleRule holds the endpoints at which flows to one frontend may remain.
type staleRule map[netip.AddrPort]bool

// NewStale returns what the step from prev to cur orphans. A nil prev covers
// every UDP Port of cur, as at start. Unlike kube-proxy it covers removed
// Services and addresses, and Ports that lost their last endpoint.
func NewStale(prev, cur *Snapshot) *Stale {
	s := &Stale{rules: make(map[netip.AddrPort]staleRule)}
	for old := range cur.Changed(prev) {
		s.add(old, nil)
	}
	for _, port := range cur.Changed(prev) {
		if port != nil {
			s.add(port, port.Serving)
		}
	}
	if len(s.rules) > 0 {
		s.local = make(map[netip.Addr]bool, len(cur.Node.Addrs))
		for _, a := range cur.Node.Addrs {
			s.local[a] = true
		}
	}
	return s
}

func (s *Stale) add(p *Port, serving Pool) {
	if p == nil || p.ID.Protocol != UDP || len(p.Frontends) == 0 {
		return
	}
	rule := make(staleRule, len(serving))
	for _, ep := range serving {
		rule[ep.Addr] = true
	}
	for i := range p.Frontends {
		s.rules[p.Frontends[i].Addr] = rule
	}
}

// Empty reports whether no flow can be an orphan.
func (s *Stale) Empty() bool { return s == nil || len(s.rules) == 0 }

// Merge adds what older knew and s does not, for a clean-up that did not happen.
func (s *Stale) Merge(older *Stale) {
	if older.Empty() {
		return
	}
	for addr, rule := range older.rules {
		if _, ok := s.rules[addr]; !ok {
			s.rules[addr] = rule
		}
	}
	if s.local == nil {
		s.local = older.local
	}
}

// Orphan reports whether f must be forgotten. A flow to a node port counts only
// if its destination is local to the node: other flows may use the number too.
func (s *Stale) Orphan(f ConntrackFlow) bool {
	if f.Protocol != UDP || s.Empty() {
		return false
	}
	rule, ok := s.rules[f.OrigDst]
	if !ok && s.local[f.OrigDst.Addr()] {
		rule, ok = s.rules[netip.AddrPortFrom(FamilyOf(f.OrigDst.Addr()).Any(), f.OrigDst.Port())]
	}
	if !ok {
		return false
	}
	if len(rule) == 0 {
		return f.ReplySrc != f.OrigDst
	}
	return !rule[f.ReplySrc]
}
