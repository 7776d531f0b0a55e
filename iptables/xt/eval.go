package xt

import (
	"fmt"
	"net/netip"
	"slices"
)

// A Packet is what Eval sends through the rules: the first packet of a
// connection, unless State says otherwise.
type Packet struct {
	Family Family
	Proto  Protocol
	Src    netip.AddrPort // ICMP ignores the port
	Dst    netip.AddrPort
	In     string // interface it arrives on; empty if it is generated here
	Out    string // interface it leaves by if it is not for this node
	Mark   uint32
	State  CTStates // zero stands for CTNew
	Reply  bool     // it answers: the other end began the connection

	// Local reports whether an address is this node's; nil means none is.
	Local func(netip.Addr) bool

	// Recent reports whether Src was put in a recent list within the seconds;
	// nil means never.
	Recent func(name string, seconds int) bool

	// Sets reports whether the packet, as it is then, is in an ipset when it is
	// looked at from dirs; nil means that every set is empty.
	Sets func(set string, p *Packet, dirs string) bool

	// Routed reports whether the packet, as it is then, is delivered on this node
	// although its destination is not Local: policy routing by its mark. Nil
	// means never.
	Routed func(p *Packet) bool

	// Balance is IPVS: where it may send the packet, each with the same
	// probability. Without a virtual server for it the answer is nil, with one
	// that has no destination it is empty but not nil. A nil Balance stands for
	// a kernel without IPVS.
	Balance func(p *Packet) []netip.AddrPort

	Balanced bool // IPVS has redirected it

	Socket   bool   // a transparent socket has its connection
	ConnMark uint32 // the mark of its connection
}

func (p *Packet) local(a netip.Addr) bool { return p.Local != nil && p.Local(a) }

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts.
const (
	Accepted Verdict = iota
	Dropped
	Rejected
)

// String returns the verdict in lower case.
func (v Verdict) String() string {
	return [...]string{"accepted", "dropped", "rejected"}[v]
}

// A Result is one thing that can happen to a packet.
type Result struct {
	Verdict     Verdict
	DNAT        netip.AddrPort // new destination; invalid if it was not rewritten
	Masqueraded bool
	Proxy       netip.AddrPort // the socket it was handed to; invalid if to none
	Mark        uint32         // at the end
	P           float64        // probability
	Trace       []string       // the rules that matched, in order; only from [Ruleset.Trace]
}

// Eval returns everything the kernel could do with p if r were all its rules
// and every policy were ACCEPT: both branches of every [Random] and every
// destination of IPVS are followed, equal results merged and the most probable
// listed first. The probabilities add up to 1.
//
// A packet that is generated here passes OUTPUT and POSTROUTING and then, if
// its destination, perhaps rewritten, is local, INPUT. One that arrives passes
// PREROUTING and then INPUT, or FORWARD and POSTROUTING. In each hook the
// tables come in the kernel's order, and only the first packet of a connection
// (NEW or RELATED) sees nat. A masqueraded packet keeps its Src here, since the
// new one is the routing table's to choose. For the place of IPVS among them see
// Packet.Balance.
//
// Eval panics if chains jump in a loop: the kernel refuses such rules and so
// does [Ruleset.Check].
func (r *Ruleset) Eval(p Packet) []Result {
	return merge(r.run(p, false))
}

// Trace is Eval with one result for each way through the rules, unmerged, and
// the rules that matched on the way.
func (r *Ruleset) Trace(p Packet) []Result { return r.run(p, true) }

func (r *Ruleset) run(p Packet, trace bool) []Result {
	if p.State == 0 {
		p.State = CTNew
	}
	e := evaluator{rules: r, trace: trace}
	e.walk(path{pkt: p, in: p.In, out: p.Out, res: Result{P: 1}})
	return e.done
}

// merge adds up equal results.
func merge(all []Result) []Result {
	var out []Result
	for _, a := range all {
		i := slices.IndexFunc(out, func(b Result) bool {
			return a.Verdict == b.Verdict && a.DNAT == b.DNAT && a.Masqueraded == b.Masqueraded && a.Proxy == b.Proxy && a.Mark == b.Mark
		})
		if i < 0 {
			out = append(out, a)
		} else {
			out[i].P += a.P
		}
	}
	slices.SortStableFunc(out, func(a, b Result) int {
		switch {
		case a.P > b.P:
			return -1
		case a.P < b.P:
			return 1
		}
		return 0
	})
	return out
}

// A path is one way of a packet through the rules, so far.
type path struct {
	pkt     Packet // In and Out as far as the kernel shows them to the current hook
	in, out string
	self    bool // routed to this node
	res     Result
	end     ending // of the chain that was left last
}

// ending is how a path came out of a chain.
type ending uint8

const (
	fellThrough ending = iota // end of chain, or RETURN
	passed                    // the table lets it pass
	stopped                   // dropped or rejected
)

type evaluator struct {
	rules *Ruleset
	trace bool
	done  []Result
}

// A step is one table in one hook.
type step struct {
	table   Table
	builtin string
}

func (e *evaluator) finish(ws []path) {
	for _, w := range ws {
		w.res.Mark = w.pkt.Mark
		e.done = append(e.done, w.res)
	}
}

// steps takes every path through the steps and returns those still alive; the
// others are finished.
func (e *evaluator) steps(ws []path, steps ...step) []path {
	for _, s := range steps {
		var alive []path
		for _, w := range ws {
			if s.table == NAT && w.pkt.State&(CTNew|CTRelated) == 0 {
				alive = append(alive, w)
				continue
			}
			for _, w := range e.hooks(w, s) {
				if w.end == stopped {
					e.finish([]path{w})
				} else {
					alive = append(alive, w)
				}
			}
		}
		ws = alive
	}
	return ws
}

// hooks takes w through our hooks in one built-in chain.
func (e *evaluator) hooks(w path, s step) []path {
	w.show(s.builtin)
	w.end = fellThrough
	ws := []path{w}
	for _, h := range e.rules.Hooks {
		if h.Table != s.table || h.Builtin != s.builtin {
			continue
		}
		var next []path
		for _, w := range ws {
			if w.end == fellThrough {
				next = append(next, e.chain(w, ChainRef{h.Table, h.Chain}, 2)...)
			} else {
				next = append(next, w)
			}
		}
		ws = next
	}
	return ws
}

// show sets the interfaces as a hook sees them: before routing there is no way
// out yet, and after it the way in is forgotten.
func (w *path) show(builtin string) {
	out := w.out
	if w.self {
		out = "lo"
	}
	switch builtin {
	case "PREROUTING", "INPUT":
		w.pkt.In, w.pkt.Out = w.in, ""
	case "FORWARD":
		w.pkt.In, w.pkt.Out = w.in, out
	default:
		w.pkt.In, w.pkt.Out = "", out
	}
}

// chain returns every way w can come out of a chain. A chain that is not ours
// is taken to do nothing.
func (e *evaluator) chain(w path, ref ChainRef, depth int) []path {
	if depth > len(e.rules.Chains)+2 {
		panic(fmt.Sprintf("xt: chain %v jumps in a loop", ref))
	}
	alive := []path{w}
	var out []path
	for i := range e.rules.Chains[ref] {
		rule := &e.rules.Chains[ref][i]
		if len(alive) == 1 && rule.chance(&alive[0].pkt) == 0 {
			continue // the common case, without copying
		}
		var next []path
		for _, w := range alive {
			p := rule.chance(&w.pkt)
			if p < 1 {
				miss := w
				miss.res.P *= 1 - p
				next = append(next, miss)
			}
			if p > 0 {
				w.res.P *= p
				stay, left := e.hit(w, rule, ref, depth)
				next, out = append(next, stay...), append(out, left...)
			}
		}
		if alive = next; len(alive) == 0 {
			break
		}
	}
	return append(out, alive...) // fell through, all of them
}

// chance returns how likely r is to match p.
func (r *Rule) chance(p *Packet) float64 {
	chance := 1.0
	for _, m := range r.Match {
		if !m.matches(p) {
			return 0
		}
		if m, ok := m.(Random); ok {
			chance *= m.P
		}
	}
	return chance
}

// hit does the target of a rule of chain ref to w. It returns the paths that
// stay in the chain and those that leave it.
func (e *evaluator) hit(w path, rule *Rule, ref ChainRef, depth int) (stay, left []path) {
	if e.trace {
		text := string(rule.appendArgs(append([]byte(ref.String()), ' ')))
		w.res.Trace = append(slices.Clip(w.res.Trace), text)
	}
	switch t := rule.Target.(type) {
	case Jump:
		for _, w := range e.chain(w, ChainRef{ref.Table, t.Chain}, depth+1) {
			if w.end == fellThrough {
				stay = append(stay, w)
			} else {
				left = append(left, w)
			}
		}
		return stay, left
	case Goto:
		return nil, e.chain(w, ChainRef{ref.Table, t.Chain}, depth+1)
	case nil:
		return []path{w}, nil
	case OrMark:
		w.pkt.Mark |= t.Bits
		return []path{w}, nil
	case OrConnMark:
		w.pkt.ConnMark |= t.Bits
		return []path{w}, nil
	case XorMark:
		w.pkt.Mark ^= t.Bits
		return []path{w}, nil
	case ClearMark:
		w.pkt.Mark &^= t.Bits
		return []path{w}, nil
	}
	w.terminate(rule.Target)
	return nil, []path{w}
}

// terminate does what ends the chain.
func (w *path) terminate(t Target) {
	switch t := t.(type) {
	case Return:
		w.end = fellThrough
	case Accept:
		w.end = passed
	case DropPacket:
		w.end, w.res.Verdict = stopped, Dropped
	case Reject, Reset:
		w.end, w.res.Verdict = stopped, Rejected
	case DNAT:
		w.translate(t.To)
	case DNATAddr:
		w.translate(netip.AddrPortFrom(t.To, w.pkt.Dst.Port()))
	case NetMap:
		w.translate(netip.AddrPortFrom(t.of(w.pkt.Dst.Addr()), w.pkt.Dst.Port()))
	case TProxy:
		w.end, w.res.Proxy = passed, t.On
		w.pkt.Mark |= t.MarkBits
	case Masquerade:
		w.end, w.res.Masqueraded = passed, true
	default:
		panic(fmt.Sprintf("xt: no semantics for target %T", t))
	}
}

// translate does what DNAT does, which ends the table.
func (w *path) translate(to netip.AddrPort) {
	w.end, w.res.DNAT = passed, to
	w.pkt.Dst = to
	w.pkt.State |= CTDNAT
}
