package service

import "net/netip"

// A ConntrackFlow is what Stale needs of one connection-tracking entry: where
// the client sent its packets, and where the answers come from. The two are
// equal when the entry is not translated. OrigSrc and ReplyDst are the same of an
// entry that an answer began, see [Stale.Orphan].
type ConntrackFlow struct {
	Protocol Protocol
	OrigSrc  netip.AddrPort
	OrigDst  netip.AddrPort
	ReplySrc netip.AddrPort
	ReplyDst netip.AddrPort
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

// Untranslated makes every flow stale that is translated at all: nobody translates
// any more, where a proxy has taken the place of rules.
func (s *Stale) Untranslated() {
	for addr := range s.rules {
		s.rules[addr] = nil
	}
}

// Orphan reports whether f must be forgotten. A flow to a node port counts only
// if its destination is local to the node: other flows may use the number too.
//
// An entry can also be the wrong way round: its client's packets are the replies.
// It comes about when an answer is under way while its flow is forgotten, and lasts
// as long as the client sends, since no rule is asked about replies. For iptables
// such a client goes untranslated; for IPVS the answers of another endpoint clash
// with it, and are dropped.
func (s *Stale) Orphan(f ConntrackFlow) bool {
	if f.Protocol != UDP || s.Empty() {
		return false
	}
	if rule, ok := s.rule(f.OrigDst); ok {
		return rule.orphans(f.OrigDst, f.ReplySrc)
	}
	rule, ok := s.rule(f.ReplyDst)
	return ok && rule.orphans(f.ReplyDst, f.OrigSrc)
}

// rule returns what is known of a frontend.
func (s *Stale) rule(frontend netip.AddrPort) (staleRule, bool) {
	rule, ok := s.rules[frontend]
	if !ok && s.local[frontend.Addr()] {
		rule, ok = s.rules[netip.AddrPortFrom(FamilyOf(frontend.Addr()).Any(), frontend.Port())]
	}
	return rule, ok
}

// orphans reports whether a flow to a frontend may not be answered by src.
func (r staleRule) orphans(frontend, src netip.AddrPort) bool {
	if len(r) == 0 {
		return src != frontend
	}
	return !r[src]
}
