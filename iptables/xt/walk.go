package xt

import "net/netip"

// walk takes w all the way.
//
//	arrives ── PREROUTING ─┬─ FORWARD ── POSTROUTING ──► leaves
//	                       └─ INPUT ── IPVS ──► is delivered
//	                                     └─ OUTPUT ── POSTROUTING ──► leaves
//	is sent ── OUTPUT ── IPVS ─┬─ OUTPUT's filter ── POSTROUTING ──► leaves, or arrives by lo
//	                           └─ OUTPUT again, ditto
//
// Within a hook the tables come by the kernel's priorities: mangle, nat for
// destinations, IPVS if the packet was sent, filter, IPVS if it was received,
// nat for sources.
func (e *evaluator) walk(w path) {
	if w.in == "" {
		e.sent(w)
		return
	}
	for _, w := range e.steps([]path{w}, step{Mangle, "PREROUTING"}, step{NAT, "PREROUTING"}) {
		if w.route(); w.self {
			e.received(w)
		} else {
			e.finish(e.steps([]path{w}, step{Mangle, "FORWARD"}, step{Filter, "FORWARD"},
				step{Mangle, "POSTROUTING"}, step{NAT, "POSTROUTING"}))
		}
	}
}

// sent takes a packet that is generated here. The kernel routes it again
// whenever a table may have changed where it goes.
func (e *evaluator) sent(w path) {
	w.route()
	var ws []path
	for _, w := range e.steps([]path{w}, step{Mangle, "OUTPUT"}) {
		w.route()
		ws = append(ws, w)
	}
	for _, w := range e.steps(ws, step{NAT, "OUTPUT"}) {
		w.route()
		for _, b := range e.balance(w) {
			switch redirected := b.pkt.Balanced && !w.pkt.Balanced; {
			case redirected && !b.self:
				e.redirected(b)
			case redirected && !w.self:
				// To the node itself IPVS sends a packet by the route it has
				// (ip_vs_nat_xmit), and this one leaves the node.
				b.res.Verdict = Dropped
				e.finish([]path{b})
			default:
				e.leave(b)
			}
		}
	}
}

// leave takes w from filter OUTPUT on.
func (e *evaluator) leave(w path) {
	sent := e.steps([]path{w}, step{Filter, "OUTPUT"}, step{Mangle, "POSTROUTING"}, step{NAT, "POSTROUTING"})
	for _, w := range sent {
		if !w.self {
			e.finish([]path{w})
			continue
		}
		w.in = "lo" // where it comes back; nat has had its turn
		e.finish(e.steps([]path{w}, step{Mangle, "PREROUTING"}, step{Mangle, "INPUT"}, step{Filter, "INPUT"}))
	}
}

// received takes a packet for this node from INPUT on. IPVS comes after filter
// (NF_IP_PRI_NAT_SRC - 1); what it sends to the node itself stays in INPUT.
func (e *evaluator) received(w path) {
	for _, w := range e.steps([]path{w}, step{Mangle, "INPUT"}, step{Filter, "INPUT"}) {
		for _, b := range e.balance(w) {
			if b.pkt.Balanced && !b.self {
				e.redirected(b)
			} else {
				e.finish(e.steps([]path{b}, step{NAT, "INPUT"}))
			}
		}
	}
}

// redirected takes a packet that IPVS sends elsewhere: it enters OUTPUT like a
// new one, but nat has made up its mind about the destination of the connection.
func (e *evaluator) redirected(w path) {
	w.in = ""
	for _, w := range e.steps([]path{w}, step{Mangle, "OUTPUT"}) {
		w.route()
		e.leave(w)
	}
}

// balance returns w as IPVS lets it go on: unchanged, once for each destination,
// or not at all. Of ICMP it takes only what is related to its connections. A
// packet passes it once.
func (e *evaluator) balance(w path) []path {
	if w.pkt.Balance == nil || w.pkt.Balanced || !w.pkt.Proto.hasPorts() {
		return []path{w}
	}
	to := w.pkt.Balance(&w.pkt)
	if to == nil {
		return []path{w}
	}
	if len(to) == 0 {
		w.res.Verdict = Rejected
		e.finish([]path{w})
		return nil
	}
	ws := make([]path, 0, len(to))
	for _, dst := range to {
		b := w
		b.redirect(dst, len(to))
		ws = append(ws, b)
	}
	return ws
}

// redirect sends w to one of n destinations.
func (w *path) redirect(dst netip.AddrPort, n int) {
	w.pkt.Dst, w.pkt.Balanced = dst, true
	w.res.DNAT = dst
	w.res.P /= float64(n)
	w.route()
}

// route decides whether w is for this node.
func (w *path) route() {
	w.self = w.pkt.local(w.pkt.Dst.Addr()) || w.pkt.Routed != nil && w.pkt.Routed(&w.pkt)
}
