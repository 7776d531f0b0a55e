package ipvs

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// A unit is everything the kernel must have for one address, port and protocol.
// Units are immutable.
type unit struct {
	key   kernel.ServerKey
	port  *service.Port
	kind  service.Kind
	alias bool // the pool of callers on this node, where it is another

	serves  bool // there is a virtual server
	server  kernel.Server
	pool    service.Pool   // its destinations
	in      member         // sets the key is in
	sources []netip.Prefix // who may call, if inFW
	use     use            // what the address is needed for
}

// before orders units that want the same key: an address of its own goes before
// a node port, as in every dataplane, and any of them before an alias.
func (u *unit) before(o *unit) bool {
	rank := func(u *unit) int {
		switch {
		case u.alias:
			return 2
		case u.kind == service.NodePort:
			return 1
		}
		return 0
	}
	if c := cmp.Compare(rank(u), rank(o)); c != 0 {
		return c < 0
	}
	return u.port.ID.Compare(o.port.ID) < 0
}

// A planner makes units of Ports, and tells what it cannot. It is pure.
type planner struct {
	cfg   Config
	node  *service.Node
	nodes [service.NumFamilies][]netip.Addr // at which node ports answer

	turning bool // rules are those of both VIPModes, see turns
}

// routed reports whether packets to virtual addresses are marked and routed to the node.
func (pl *planner) routed() bool { return pl.cfg.VIPMode == Routed || pl.turning }

// captures reports whether the node has virtual addresses as a whole.
func (pl *planner) captures() bool { return pl.cfg.VIPMode == Device || pl.turning }

func newPlanner(cfg Config, node *service.Node) *planner {
	pl := &planner{cfg: cfg, node: node}
	for _, a := range node.Addrs {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() && node.AnswersNodePorts(a) {
			f := service.FamilyOf(a)
			pl.nodes[f] = append(pl.nodes[f], a)
		}
	}
	return pl
}

// plans reports whether pl makes the same of every Port on node n.
func (pl *planner) plans(n *service.Node) bool {
	if pl.node == n {
		return true
	}
	other := newPlanner(pl.cfg, n)
	return pl.node.Name == n.Name && pl.node.Pods == n.Pods &&
		slices.Equal(pl.nodes[service.IPv4], other.nodes[service.IPv4]) &&
		slices.Equal(pl.nodes[service.IPv6], other.nodes[service.IPv6]) &&
		slices.Equal(pl.node.Addrs, n.Addrs)
}

// port returns the units of p, and why p is not served as told, if so.
func (pl *planner) port(p *service.Port) ([]*unit, []string) {
	if !pl.cfg.serves(p.ID.Family) {
		return nil, nil
	}
	out := unitsOf{planner: pl, port: p}
	out.server, out.why = pl.server(p)
	for i := range p.Frontends {
		out.frontend(&p.Frontends[i])
	}
	return out.units, out.why
}

// unitsOf gathers the units of one Port.
type unitsOf struct {
	*planner
	port   *service.Port
	server kernel.Server
	units  []*unit
	why    []string
}

func (o *unitsOf) frontend(fe *service.Frontend) {
	shape, ok := shapeOf(fe, o.node.Pods.Detects(o.port.ID.Family))
	if !ok {
		o.why = append(o.why, fmt.Sprintf("IPVS cannot tell the callers of %s apart in this way; all are served like those from outside", fe.Addr))
	}
	addrs := []netip.Addr{fe.Addr.Addr()}
	if fe.Kind == service.NodePort {
		addrs = o.nodes[o.port.ID.Family]
	}
	for _, a := range addrs {
		if !o.cfg.excludes(a) && !(fe.Kind == service.ClusterIP && o.has(a)) {
			o.add(fe, shape, a)
		}
	}
}

// has reports whether the node has an address on some interface of its own. A
// cluster IP that it has is left to whoever put it there: a DNS cache on the node
// takes the place of the Service.
func (pl *planner) has(a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(pl.node.Addrs, a, netip.Addr.Compare)
	return ok
}

// add adds the unit for a frontend at one address, and its alias.
func (o *unitsOf) add(fe *service.Frontend, s shape, a netip.Addr) {
	u := &unit{
		key:  kernel.ServerKey{Addr: netip.AddrPortFrom(a, fe.Addr.Port()), Protocol: o.port.ID.Protocol},
		port: o.port, kind: fe.Kind, in: s.in, use: o.uses(fe.Kind, a),
	}
	if s.base.Verdict == service.Forward {
		u.serves, u.server, u.pool = true, o.server, s.base.Pool
		u.in |= inOwn
		if fe.Kind != service.NodePort {
			u.in |= inVIP
		}
	}
	if fe.Sources != nil && fe.Leftover() != service.Reject {
		u.in |= inFW
		u.sources = fe.Sources
	}
	o.units = append(o.units, u)
	if s.in&inShort != 0 {
		o.units = append(o.units, &unit{
			key:  kernel.ServerKey{Addr: netip.AddrPortFrom(aliasOf(a), fe.Addr.Port()), Protocol: o.port.ID.Protocol},
			port: o.port, kind: fe.Kind, alias: true,
			serves: true, server: o.server, pool: s.short, in: inOwn, use: o.aliasUses(),
		})
	}
}

// uses says what the address of a unit is needed for.
func (pl *planner) uses(k service.Kind, a netip.Addr) use {
	switch {
	case k == service.NodePort || pl.has(a):
		return 0
	case pl.cfg.VIPMode == Device && k == service.ClusterIP:
		return useAddr | useDevice | useCluster
	case pl.cfg.VIPMode == Device:
		return useAddr | useDevice
	}
	u := useRoute
	switch k {
	case service.ExternalIP:
		u |= useExt
	case service.ClusterIP:
		u |= useAddr | useCluster
	default:
		u |= useAddr
	}
	if a.Is4() {
		u |= useDevice // for ICMP from the address; see the package comment
	}
	return u
}

func (pl *planner) aliasUses() use {
	if pl.cfg.VIPMode == Device {
		return useDevice
	}
	return 0
}

// A shape is the three Routes of a frontend, as one virtual server and at most
// one alias say it.
type shape struct {
	base  service.Route // of callers from outside, and all others if there is no alias
	short service.Pool  // of callers on this node, if inShort
	in    member
}

// shapeOf reports false if the Routes cannot be said. No Service leads to such
// Routes today.
func shapeOf(fe *service.Frontend, detects bool) (shape, bool) {
	pod, host, outside := fe.Routes[service.FromPod], fe.Routes[service.FromHost], fe.Routes[service.FromOutside]
	if !detects {
		pod = outside // nobody can tell it
	}
	s := shape{base: outside}
	switch outside.Verdict {
	case service.Reject:
		s.in |= inRefuse
	case service.Drop:
		s.in |= inDrop
	}
	same := func(a, b service.Route) bool { return a.Verdict == b.Verdict && slices.Equal(a.Pool, b.Pool) }
	if same(pod, outside) && same(host, outside) {
		masq := [...]bool{pod.Masquerade, host.Masquerade, outside.Masquerade}
		switch {
		case outside.Verdict != service.Forward || masq == [...]bool{false, false, false}:
			return s, true
		case masq == [...]bool{true, true, true}:
			s.in |= inMasq
			return s, true
		case masq == [...]bool{false, true, true} && detects:
			s.in |= inMasqX
			return s, true
		}
	}
	// Callers on this node are masqueraded unless they are pods, others are not.
	ok := host.Verdict == service.Forward && host.Masquerade && !outside.Masquerade && !pod.Masquerade &&
		(same(pod, host) || !detects)
	if ok {
		s.in |= inShort
		s.short = host.Pool
	}
	return s, ok
}

// server returns how the virtual servers of p balance.
func (pl *planner) server(p *service.Port) (kernel.Server, []string) {
	s := kernel.Server{Scheduler: pl.cfg.Scheduler}
	var why []string
	flags := p.Scheduling.Flags
	if a := p.Scheduling.Algorithm; a != "" && a != s.Scheduler {
		if pl.cfg.available(a) {
			s.Scheduler = a
		} else {
			why = []string{fmt.Sprintf("the kernel has no scheduler %s (module ip_vs_%s); %s is used", a, a, s.Scheduler)}
			flags = ""
		}
	}
	s.Flags = schedulerFlags(s.Scheduler, flags)
	if p.Affinity > 0 {
		s.Flags |= kernel.Persistent
		s.Timeout = p.Affinity.Truncate(time.Second)
	}
	return s, why
}

// schedulerFlags returns what named flags are to the kernel (linux/ip_vs.h).
// Maglev hashes the client's port too unless told otherwise, as kube-proxy has it.
// Schedulers that hash clients always fall back to another destination from one
// that has no weight: they know those that drain too, and would have the clients
// of such a one refused.
func schedulerFlags(scheduler, names string) kernel.Flags {
	var out kernel.Flags
	switch {
	case scheduler == "mh" && names == "":
		return kernel.Sched1 | kernel.Sched2
	case scheduler == "mh" || scheduler == "sh":
		out = kernel.Sched1
	}
	for name := range strings.SplitSeq(names, ",") {
		switch name {
		case "flag-1", "sh-fallback", "mh-fallback":
			out |= kernel.Sched1
		case "flag-2", "sh-port", "mh-port":
			out |= kernel.Sched2
		case "flag-3":
			out |= kernel.Sched3
		}
	}
	return out
}
