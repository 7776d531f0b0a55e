package userspace

import (
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// Our chains. In each table they are entered from the built-in chain of the same
// name, except as said.
const (
	chainPre     = "FL-PREROUTING"
	chainOurs    = "FL-OURS"    // packets of a connection that a socket of ours has
	chainReply   = "FL-REPLY"   // answers to what the node has begun
	chainAgain   = "FL-AGAIN"   // what the node sends to us
	chainPod     = "FL-POD"     // callers on this node, from FL-PREROUTING
	chainHost    = "FL-HOST"    // the node itself
	chainOutside = "FL-OUTSIDE" // all others
	chainOut     = "FL-OUTPUT"
	chainIn      = "FL-INPUT"
	chainForward = "FL-FORWARD"
)

// loopback is the device that the node's own packets come back by.
const loopback = "lo"

func hooks() []xt.Hook {
	return []xt.Hook{
		{Table: xt.Mangle, Builtin: "PREROUTING", Chain: chainPre},
		{Table: xt.Mangle, Builtin: "OUTPUT", Chain: chainOut},
		{Table: xt.Filter, Builtin: "INPUT", Chain: chainIn},
		{Table: xt.Filter, Builtin: "FORWARD", Chain: chainForward},
		{Table: xt.Filter, Builtin: "OUTPUT", Chain: chainOut},
	}
}

// A family writes the rules of one family.
type family struct {
	cfg  Config
	pods service.Detector
	f    service.Family
}

// rules returns all rules of a family.
func rules(cfg Config, pods service.Detector, f xt.Family) *xt.Ruleset {
	fam := family{cfg, pods, service.Family(f)}
	r := &xt.Ruleset{Family: f, Hooks: hooks(), Chains: map[xt.ChainRef][]xt.Rule{
		{Table: xt.Mangle, Name: chainPre}:     fam.preRouting(),
		{Table: xt.Mangle, Name: chainOurs}:    {rule(xt.OrMark{Bits: cfg.routeMark()})},
		{Table: xt.Mangle, Name: chainReply}:   {rule(xt.Goto{Chain: chainOurs}, xt.ToSocket{})},
		{Table: xt.Mangle, Name: chainAgain}:   {rule(xt.OrConnMark{Bits: cfg.routeMark()}, isTCP), rule(xt.OrMark{Bits: cfg.routeMark()})},
		{Table: xt.Mangle, Name: chainPod}:     fam.catch(service.FromPod),
		{Table: xt.Mangle, Name: chainHost}:    fam.catch(service.FromHost),
		{Table: xt.Mangle, Name: chainOutside}: fam.catch(service.FromOutside),
		{Table: xt.Mangle, Name: chainOut}:     fam.sent(),
		{Table: xt.Filter, Name: chainIn}:      fam.input(),
		{Table: xt.Filter, Name: chainForward}: fam.forward(),
		{Table: xt.Filter, Name: chainOut}:     fam.output(),
	}}
	xt.Seal(r, xt.Mangle, xt.Filter)
	return r
}

var ( // states of connections
	isNew  = xt.CTState{States: xt.CTNew}
	notNew = xt.CTState{States: xt.CTNew, Not: true}
	isDNAT = xt.CTState{States: xt.CTDNAT}
	isTCP  = xt.Proto{Protocol: xt.TCP}
	isUDP  = xt.Proto{Protocol: xt.UDP}
)

func rule(t xt.Target, m ...xt.Match) xt.Rule { return xt.Rule{Match: m, Target: t} }

// in matches packets whose destination is in a set.
func (fam *family) in(id setID) xt.InSet {
	m := xt.InSet{Set: setName(fam.f, id), Dirs: "dst,dst"}
	if id == setCluster || id == setHealth {
		m.Dirs = "dst"
	}
	return m
}

// strangers drops callers that source ranges do not allow.
func (fam *family) strangers() xt.Rule {
	allowed := xt.InSet{Set: setName(fam.f, setAllowed), Dirs: "dst,dst,src", Not: true}
	return rule(xt.DropPacket{}, isNew, fam.in(setLimited), allowed)
}

// near returns the chains of callers on this node with what they are told by: pods
// first, as in [service.Node.Origin]. What the node itself sends comes back by the
// loopback device.
func (fam *family) near() []caller {
	host := caller{chainHost, []xt.Match{xt.InIface{Name: loopback}, xt.SrcType{}}}
	d := fam.pods
	switch {
	case !d.Detects(fam.f):
		return []caller{host}
	case d.Interface == "":
		return []caller{{chainPod, []xt.Match{xt.Source{Prefix: d.Prefixes[fam.f]}}}, host}
	case d.IsPrefix:
		return []caller{{chainPod, []xt.Match{xt.InIface{Name: d.Interface + "+"}}}, host}
	default:
		return []caller{{chainPod, []xt.Match{xt.InIface{Name: d.Interface}}}, host}
	}
}

// A caller is who comes to a chain.
type caller struct {
	chain string
	told  []xt.Match
}

// preRouting decides about everything that arrives, and what the node has sent to
// itself.
func (fam *family) preRouting() []xt.Rule {
	rules := []xt.Rule{
		// Somebody translates this connection: it was made before we came.
		rule(xt.Return{}, isDNAT),
		rule(xt.Goto{Chain: chainOurs}, isTCP, xt.TCPSyn{Not: true}, xt.ToSocket{}),
		// The answer to what the node has asked somebody is no call of a node port whose
		// number is that of the socket. At other addresses it is one: the answer of who
		// had the address before us may have begun what is remembered of the flow.
		rule(xt.Goto{Chain: chainReply}, xt.CTReply{}, xt.DstType{}),
		fam.strangers(),
	}
	near := fam.near()
	for _, c := range near {
		rules = append(rules, rule(xt.Goto{Chain: c.chain}, append(c.told, fam.in(setShort))...))
	}
	rules = append(rules,
		rule(xt.DropPacket{}, isNew, fam.in(setDrop)),
		rule(xt.DropPacket{}, isUDP, fam.in(setDrop)),
		rule(xt.Return{}, fam.in(setRefuse)),
	)
	for _, c := range near {
		rules = append(rules, rule(xt.Goto{Chain: c.chain}, append(c.told, fam.in(setVIP))...))
	}
	return append(rules,
		rule(xt.Goto{Chain: chainOutside}, fam.in(setVIP)),
		// Only now: the socket that answers UDP clients in the name of a frontend
		// would be found for what they send to it.
		rule(xt.Goto{Chain: chainOurs}, xt.ToSocket{}),
	)
}

// catch hands packets to the socket for one origin. The middle of a connection that
// no socket has is sent to the node, which resets it. A SYN is a beginning whatever
// is remembered of its port: the one who listens decides about it.
func (fam *family) catch(o service.Origin) []xt.Rule {
	to := xt.TProxy{On: fam.cfg.Listen(fam.f, o), MarkBits: fam.cfg.routeMark()}
	return []xt.Rule{
		rule(xt.OrMark{Bits: fam.cfg.routeMark()}, isTCP, xt.TCPSyn{Not: true}, notNew),
		rule(to, isTCP),
		rule(to, xt.Proto{Protocol: xt.UDP}),
	}
}

// sent decides about what the node itself sends: what is for us is routed to the
// node, where it meets preRouting. The proxy's own packets are let go.
//
// A TCP connection is marked too. It is still ours when its Service is no more. And
// so are the answers of an endpoint that is the node itself, if the proxy has called
// it in the name of somebody else: they would go straight to him.
func (fam *family) sent() []xt.Rule {
	own := fam.cfg.SocketMark()
	isOwn := xt.MarkIs{Value: own, Mask: own}
	return []xt.Rule{
		rule(xt.OrConnMark{Bits: fam.cfg.routeMark()}, isOwn, isNew, xt.SrcType{Not: true}),
		rule(xt.Return{}, isOwn),
		rule(xt.Return{}, isDNAT),
		rule(xt.Goto{Chain: chainOurs}, xt.ConnMarkIs{Bits: fam.cfg.routeMark()}),
		rule(xt.Return{}, xt.CTReply{}, xt.DstType{}),
		fam.strangers(),
		rule(xt.Goto{Chain: chainAgain}, fam.in(setShort)),
		rule(xt.DropPacket{}, isNew, fam.in(setDrop)),
		rule(xt.DropPacket{}, isUDP, fam.in(setDrop)),
		rule(xt.Return{}, fam.in(setRefuse)),
		rule(xt.Goto{Chain: chainAgain}, fam.in(setVIP)),
	}
}

// input lets what has the routing mark go first: a socket of ours was found for it.
func (fam *family) input() []xt.Rule {
	mark := fam.cfg.routeMark()
	return append([]xt.Rule{
		rule(xt.Return{}, xt.MarkIs{Value: mark, Mask: mark}),
		rule(xt.Accept{}, isTCP, fam.in(setHealth)),
	}, fam.refuse()...)
}

func (fam *family) forward() []xt.Rule { return append(fam.refuse(), fam.undeclared()) }

// output sees the node's packets with the routing mark on them; those are caught
// later.
func (fam *family) output() []xt.Rule {
	mark, own := fam.cfg.routeMark(), fam.cfg.SocketMark()
	rules := []xt.Rule{
		rule(xt.Return{}, xt.MarkIs{Value: mark, Mask: mark}),
		rule(xt.Return{}, xt.MarkIs{Value: own, Mask: own}),
	}
	return append(append(rules, fam.refuse()...), fam.undeclared())
}

// refuse rejects new connections to what nothing serves. What comes from the middle
// of a connection is reset. A UDP client knows of no connection, and is refused
// whenever it sends.
func (fam *family) refuse() []xt.Rule {
	stray := xt.CTState{States: xt.CTNew | xt.CTInvalid}
	return []xt.Rule{
		rule(xt.Reset{}, isTCP, xt.TCPSyn{Not: true}, stray, fam.in(setRefuse)),
		rule(xt.Reject{}, isNew, fam.in(setRefuse)),
		rule(xt.Reject{}, isUDP, fam.in(setRefuse)),
	}
}

// undeclared rejects what nobody has declared at a cluster IP, ping included, which
// would leave by the default route.
func (fam *family) undeclared() xt.Rule { return rule(xt.Reject{}, isNew, fam.in(setCluster)) }
