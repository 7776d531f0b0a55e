package servicetest

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// expect handles the directives that say what must hold in the current step.
func (l *loader) expect(verb string, args []string, text string) (err error) {
	s := l.step
	switch verb {
	case "flow":
		var f FlowExpect
		f, err = l.flow(args)
		f.Line, f.Text = l.line, text
		s.Flows = append(s.Flows, f)
	case "problem":
		var p ProblemExpect
		p, err = parseProblem(args)
		p.Line = l.line
		s.Problems = append(s.Problems, p)
	case "health":
		var h service.HealthPort
		h, err = parseHealth(args)
		s.Health = append(s.Health, HealthExpect{l.line, h})
	case "affinity":
		var a AffinityExpect
		a, err = parseAffinity(args)
		a.Line = l.line
		s.Affinity = append(s.Affinity, a)
	case "scheduling":
		var e SchedulingExpect
		e, err = parseScheduling(args)
		e.Line = l.line
		s.Scheduling = append(s.Scheduling, e)
	case "cluster", "serving", "departing":
		var p PoolExpect
		p, err = parsePool(args)
		p.Line, p.Which = l.line, verb
		s.Pools = append(s.Pools, p)
	case "internal":
		err = l.internal(args)
	default:
		return fmt.Errorf("unknown directive %q", verb)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	return nil
}

func parseProblem(args []string) (p ProblemExpect, err error) {
	if len(args) != 3 {
		return p, errors.New("want KIND NAMESPACE/NAME REASON")
	}
	p.Kind, p.Reason = args[0], args[2]
	p.Object, err = parseName(args[1])
	return p, err
}

func parseHealth(args []string) (h service.HealthPort, err error) {
	if len(args) != 4 {
		return h, errors.New("want NAMESPACE/NAME PORT FAMILY COUNT")
	}
	if h.Service, err = parseName(args[0]); err != nil {
		return h, err
	}
	port, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil {
		return h, err
	}
	h.Port = uint16(port)
	if h.Family, err = parseFamily(args[2]); err != nil {
		return h, err
	}
	h.Local, err = strconv.Atoi(args[3])
	return h, err
}

func parseAffinity(args []string) (a AffinityExpect, err error) {
	if len(args) != 2 {
		return a, errors.New("want NAMESPACE/NAME[:PORT] DURATION")
	}
	name, port, _ := strings.Cut(args[0], ":")
	a.Port = port
	if a.Service, err = parseName(name); err != nil {
		return a, err
	}
	a.Want, err = time.ParseDuration(args[1])
	return a, err
}

// parseScheduling parses NAMESPACE/NAME ALGORITHM [FLAGS].
func parseScheduling(args []string) (e SchedulingExpect, err error) {
	if len(args) < 2 || len(args) > 3 {
		return e, errors.New("want NAMESPACE/NAME ALGORITHM|default [FLAGS]")
	}
	if e.Service, err = parseName(args[0]); err != nil {
		return e, err
	}
	if args[1] != "default" {
		e.Want.Algorithm = args[1]
	}
	if len(args) == 3 {
		e.Want.Flags = args[2]
	}
	return e, nil
}

// parsePool parses PORTID [ENDPOINT[*WEIGHT]…].
func parsePool(args []string) (e PoolExpect, err error) {
	if len(args) == 0 {
		return e, errors.New("want PORTID ENDPOINT[*WEIGHT]…")
	}
	if e.Port, err = parsePortID(args[0]); err != nil {
		return e, err
	}
	for _, arg := range args[1:] {
		arg, weight, weighted := strings.Cut(arg, "*")
		var n uint64
		if weighted {
			if n, err = strconv.ParseUint(weight, 10, 16); err != nil || n < 2 {
				return e, fmt.Errorf("weight %q is not above 1", weight)
			}
		}
		var out service.Outcome
		if err := addHops(&out, arg, false); err != nil {
			return e, err
		}
		for _, h := range out.Hops {
			h.Endpoint.Weight = uint16(n)
			e.Want = append(e.Want, h.Endpoint)
		}
	}
	slices.SortFunc(e.Want, func(a, b service.Endpoint) int { return a.Addr.Compare(b.Addr) })
	return e, nil
}

func (l *loader) internal(args []string) error {
	if len(args) < 2 {
		return errors.New("want PORTID VERDICT [ENDPOINT…]")
	}
	id, err := parsePortID(args[0])
	if err != nil {
		return err
	}
	out, err := parseOutcome(args[1:])
	l.step.Internal = append(l.step.Internal, RouteExpect{l.line, id, out})
	return err
}

// flow parses PROTOCOL CALLER [ADDRESS] -> DESTINATION VERDICT [HOP…] [masq].
func (l *loader) flow(args []string) (fe FlowExpect, err error) {
	arrow := slices.Index(args, "->")
	if arrow < 2 || arrow > 3 || len(args) < arrow+3 {
		return fe, errors.New("want PROTOCOL CALLER [ADDRESS] -> DESTINATION VERDICT [HOP…] [masq]")
	}
	if fe.Flow.Protocol, err = parseProtocol(args[0]); err != nil {
		return fe, err
	}
	if fe.Flow.Dst, err = parseDestination(args[arrow+1], fe.Flow.Protocol); err != nil {
		return fe, err
	}
	dst := fe.Flow.Dst.Addr()
	if !l.reachable(dst) {
		return fe, fmt.Errorf("destination %s is nowhere in the world", dst)
	}
	addr := ""
	if arrow == 3 {
		addr = args[2]
	}
	if err := l.caller(&fe, args[1], addr); err != nil {
		return fe, err
	}
	if service.FamilyOf(fe.Flow.Src) != service.FamilyOf(dst) {
		return fe, errors.New("caller and destination are of different families")
	}
	fe.Want, err = parseOutcome(args[arrow+2:])
	return fe, err
}

// caller fills in who sends the flow, and from where it arrives.
func (l *loader) caller(fe *FlowExpect, kind, addr string) (err error) {
	n, src := &l.c.Node, netip.Addr{}
	if addr != "" {
		if src, err = netip.ParseAddr(addr); err != nil {
			return err
		}
	} else if kind != "host" {
		return fmt.Errorf("caller %q wants an address", kind)
	}
	k, m, isPod := podNumber(src)
	local := slices.Contains(n.Addrs, src) || src.IsLoopback()
	var fits bool
	switch kind {
	case "pod":
		fe.From, fits = service.FromPod, isPod && k == 1 && m > 1
		fe.Flow.In = fmt.Sprintf("veth%02d%02d", k, m)
		if l.c.Node.Pods.Interface != "" && !l.c.Node.Pods.IsPrefix {
			fe.Flow.In = l.c.Node.Pods.Interface // pods sit behind the bridge
		}
	case "host":
		if addr == "" {
			src = n.Primary[service.FamilyOf(fe.Flow.Dst.Addr())]
		}
		fe.From, fits = service.FromHost, addr == "" || local
	case "outside":
		fe.From, fits = service.FromOutside, !local && (within(src, clientNet) || within(src, foreignNet) && !(isPod && k == 1))
		fe.Flow.In = "eth0"
	default:
		return fmt.Errorf("unknown caller %q, want pod, host or outside", kind)
	}
	if !fits {
		return fmt.Errorf("%s is no %s of the world", src, kind)
	}
	fe.Flow.Src = src
	return nil
}

// reachable reports whether packets to a make sense in the world.
func (l *loader) reachable(a netip.Addr) bool {
	return a.IsLoopback() || slices.Contains(l.c.Node.Addrs, a) ||
		within(a, serviceNet) || within(a, virtualNet) || within(a, foreignNet)
}

func parseDestination(s string, p service.Protocol) (netip.AddrPort, error) {
	if p == service.ICMP {
		a, err := netip.ParseAddr(s)
		return netip.AddrPortFrom(a, 0), err
	}
	return netip.ParseAddrPort(s)
}

// parseOutcome parses VERDICT [HOP…] [masq].
func parseOutcome(args []string) (out service.Outcome, err error) {
	verdicts := map[string]service.Verdict{
		"pass": service.Pass, "forward": service.Forward, "drop": service.Drop, "reject": service.Reject,
	}
	v, ok := verdicts[args[0]]
	if !ok {
		return out, fmt.Errorf("unknown verdict %q", args[0])
	}
	out.Verdict = v
	hops := args[1:]
	masq := len(hops) > 0 && hops[len(hops)-1] == "masq"
	if masq {
		hops = hops[:len(hops)-1]
	}
	if (len(hops) > 0) != (v == service.Forward) {
		return out, fmt.Errorf("%s with %d hops", v, len(hops))
	}
	for _, h := range hops {
		if err := addHops(&out, h, masq); err != nil {
			return out, err
		}
	}
	slices.SortFunc(out.Hops, func(a, b service.Hop) int { return a.Endpoint.Addr.Compare(b.Endpoint.Addr) })
	for i := 1; i < len(out.Hops); i++ {
		if out.Hops[i-1].Endpoint == out.Hops[i].Endpoint {
			return out, fmt.Errorf("hop %s is there twice", out.Hops[i].Endpoint.Addr)
		}
	}
	return out, nil
}

// addHops adds ADDRESS:PORT[+masq] or FIRST-LAST:PORT[+masq]; the addresses of
// a range are pods of one node.
func addHops(out *service.Outcome, s string, masq bool) error {
	s, own := strings.CutSuffix(s, "+masq")
	if own && masq {
		return errors.New("+masq is pointless when all hops are masqueraded")
	}
	masq = masq || own
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		a, err := netip.ParseAddrPort(s)
		out.Hops = append(out.Hops, service.Hop{Endpoint: service.Endpoint{Addr: a}, Masquerade: masq})
		return err
	}
	from, err := netip.ParseAddr(first)
	if err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(last)
	if err != nil {
		return err
	}
	fk, fm, fok := podNumber(from)
	tk, tm, tok := podNumber(to.Addr())
	if !fok || !tok || fk != tk || fm >= tm {
		return fmt.Errorf("%s is no range of pods of one node", s)
	}
	for m := fm; m <= tm; m++ {
		a := podAddr(service.FamilyOf(from), fk, m)
		out.Hops = append(out.Hops, service.Hop{Endpoint: service.Endpoint{Addr: netip.AddrPortFrom(a, to.Port())}, Masquerade: masq})
	}
	return nil
}

// podAddr returns the address of pod m of node k.
func podAddr(f service.Family, k, m int) netip.Addr {
	if f == service.IPv4 {
		return netip.AddrFrom4([4]byte{10, 244, byte(k), byte(m)})
	}
	return netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::%d", k, m))
}

func parseProtocol(s string) (service.Protocol, error) {
	for _, p := range []service.Protocol{service.TCP, service.UDP, service.SCTP, service.ICMP} {
		if p.String() == s {
			return p, nil
		}
	}
	return 0, fmt.Errorf("unknown protocol %q", s)
}

func parseFamily(s string) (service.Family, error) {
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		if f.String() == s {
			return f, nil
		}
	}
	return 0, fmt.Errorf("unknown family %q", s)
}

// parsePortID is the inverse of PortID.String.
func parsePortID(s string) (id service.PortID, err error) {
	f := strings.Split(s, "/")
	if len(f) != 4 {
		return id, fmt.Errorf("%q is not NAMESPACE/NAME[:PORT]/PROTOCOL/FAMILY", s)
	}
	name, port, _ := strings.Cut(f[1], ":")
	id.Service, id.Port = service.Name{Namespace: f[0], Name: name}, port
	var perr, ferr error
	id.Protocol, perr = parseProtocol(f[2])
	id.Family, ferr = parseFamily(f[3])
	return id, cmp.Or(perr, ferr)
}
