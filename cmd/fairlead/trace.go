package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/service"
)

const traceUsage = `fairlead trace explains what happens to the first packet of a connection: who
may answer it and why, and which rules it meets, in ipvs mode also which sets and
virtual servers. Rules of other programs are not looked at.

Without --file, --kubeconfig and --master the fairlead that runs on this node is asked
about what it has in force. Else objects are read, and the flags describe the node.

The caller is an address, or "pod" (some pod on the node), "host" (the node
itself) or "outside" (somebody else).

Usage:
  fairlead trace --from CALLER --to ADDR:PORT
  fairlead trace -f FILE-OR-FOLDER --from CALLER --to ADDR:PORT [flags]
  fairlead trace --kubeconfig FILE --from CALLER --to ADDR:PORT [flags]`

// traceFlags are the flags of the subcommand.
type traceFlags struct {
	worldFlags
	question
}

func (t *traceFlags) addTrace(fs *pflag.FlagSet) {
	fs.StringVar(&t.From, "from", "", "caller: an address, pod, host or outside")
	fs.StringVar(&t.In, "in", "", "interface the packet arrives on; empty means eth0 unless the node itself calls")
	fs.StringVar(&t.To, "to", "", "destination, ADDR:PORT; ADDR for ICMP")
	fs.StringVar(&t.Proto, "proto", "tcp", "protocol: tcp, udp, sctp or icmp")
	fs.BoolVar(&t.All, "all", false, "print the rules on the way to every endpoint, not only to one")
	t.Status.addAsk(fs)
	t.add(fs)
	t.addSource(fs)
	t.addLog(fs)
}

// trace is the subcommand.
func (c command) trace(ctx context.Context, args []string) error {
	var t traceFlags
	fs, err := c.parse(traceUsage, args, t.addTrace)
	if err != nil {
		return err
	}
	if t.live() {
		return c.traceLive(ctx, fs, &t)
	}
	req, err := t.request()
	if err := errors.Join(err, t.check()); err != nil {
		return usageError(err)
	}
	snap, bad, err := c.observe(ctx, &t.worldFlags, req)
	if err != nil {
		return err
	}
	flow, err := t.flow(&snap.Node)
	if err != nil {
		return usageError(err)
	}
	if err := c.explain(snap, req.simulator(&t.flags), flow, t.All); err != nil {
		return err
	}
	if bad {
		return errReported
	}
	return nil
}

// observe returns what holds according to files or, without any, an API server.
func (c command) observe(ctx context.Context, t *worldFlags, req request) (snap *service.Snapshot, bad bool, err error) {
	if len(t.Files) > 0 {
		known := c.load(t.Files)
		return req.snapshot(known.store, known.nodes[req.node.Name]), known.bad, nil
	}
	here := hostname()
	if req.node.Name == "" {
		req.node.Name = here
	}
	st, info, err := c.list(ctx, &t.flags, req.node.Name)
	if err != nil {
		return nil, false, err
	}
	if req.node.Name == here {
		// The node is this machine, which knows its addresses best.
		local, err := readAddrs()
		if err != nil {
			return nil, false, err
		}
		info.Addrs = append(info.Addrs, local.All...)
	}
	return req.snapshot(st, info), false, nil
}

// parseTarget reads --to and --proto.
func parseTarget(to, proto string) (netip.AddrPort, service.Protocol, error) {
	var errs []error
	known := []service.Protocol{service.TCP, service.UDP, service.SCTP, service.ICMP}
	i := slices.IndexFunc(known, func(p service.Protocol) bool { return p.String() == strings.ToLower(proto) })
	if i < 0 {
		errs = append(errs, fmt.Errorf("--proto: %q is not tcp, udp, sctp or icmp", proto))
		i = 0
	}
	dst, err := netip.ParseAddrPort(to)
	if err != nil && known[i] == service.ICMP {
		var a netip.Addr
		a, err = netip.ParseAddr(strings.Trim(to, "[]"))
		dst = netip.AddrPortFrom(a, 0)
	}
	if err != nil || dst.Addr().Zone() != "" {
		errs = append(errs, fmt.Errorf("--to: %q is not ADDR:PORT", to))
	}
	return netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()), known[i], errors.Join(errs...)
}

// The source of callers from outside: addresses for documentation (RFC 5737 and
// RFC 3849), so that they are nobody's.
const (
	outside4 = "198.51.100.1"
	outside6 = "2001:db8:51::1"
)

// defaultIn is where packets arrive if nothing else is said.
const defaultIn = "eth0"

// caller returns a Flow with the source and the interface that from and in mean
// for a packet to dst.
func caller(from, in string, dst netip.Addr, node *service.Node) (service.Flow, error) {
	f := service.FamilyOf(dst)
	flow := service.Flow{In: in}
	switch from {
	case "pod":
		return podCaller(flow, f, node)
	case "host":
		if flow.Src = node.Primary[f]; !flow.Src.IsValid() {
			return flow, fmt.Errorf("--from: the node has no %s address; give it one with --node-addresses", f)
		}
	case "outside":
		flow.Src = netip.MustParseAddr(map[service.Family]string{service.IPv4: outside4, service.IPv6: outside6}[f])
	default:
		a, err := netip.ParseAddr(from)
		if err != nil || a.Zone() != "" {
			return flow, fmt.Errorf("--from: %q is not an address, pod, host or outside", from)
		}
		flow.Src = a.Unmap()
	}
	if service.FamilyOf(flow.Src) != f {
		return flow, fmt.Errorf("--from: %s and the destination %s are of different families", flow.Src, dst)
	}
	if flow.In == "" && node.Origin(service.Flow{Src: flow.Src, In: defaultIn}) != service.FromHost {
		flow.In = defaultIn
	}
	return flow, nil
}

// podCaller makes up a pod: an address the detector knows, or an interface.
func podCaller(flow service.Flow, f service.Family, node *service.Node) (service.Flow, error) {
	d := node.Pods
	switch {
	case !d.Detects(f):
		return flow, fmt.Errorf("--from: pods cannot be told from others in %s; --cluster-cidr or another way to tell them is missing", f)
	case d.Interface == "":
		flow.Src = lastAddr(d.Prefixes[f])
		if flow.In == "" {
			flow.In = defaultIn
		}
	default:
		flow.Src = netip.MustParseAddr(map[service.Family]string{service.IPv4: outside4, service.IPv6: outside6}[f])
		if flow.In == "" {
			flow.In = d.Interface
		}
		if !d.Match(flow.Src, flow.In) {
			return flow, fmt.Errorf("--in: pods do not send from interface %s", flow.In)
		}
	}
	return flow, nil
}

// lastAddr returns the last but one address of p, which is hardly ever an
// endpoint, and the only one of a prefix of that length.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b)-1; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // of the length it came from
	return a
}

// explain prints what must happen to flow, and what the rules do to it.
func (c command) explain(snap *service.Snapshot, simulate simulator, flow service.Flow, all bool) error {
	want, reasons := snap.Explain(flow)
	w := &lines{}
	w.add("packet   %s", describeFlow(flow))
	w.add("outcome  %s", want.Verdict)
	for _, r := range reasons {
		w.add("         %s", r)
	}
	for _, h := range want.Hops {
		w.add("endpoint %s%s", h.Endpoint.Addr, ifMasq(h.Masquerade))
	}
	sim := simulate(snap, flow)
	w.add("")
	printRules(w, sim.results, all)
	printMet(w, sim.met)
	got := outcome(sim.results)
	same := sameOutcome(got, want)
	switch {
	case same:
	case sim.known(got, want) != "":
		w.add("")
		w.add("%s", sim.known(got, want))
		same = true
	default:
		w.add("")
		w.add("The rules do NOT do what was decided. This is a bug in fairlead: please report it with this output.")
		w.add("decided  %s", describeOutcome(want))
		w.add("rules    %s", describeOutcome(got))
	}
	if _, err := fmt.Fprint(c.out, w.String()); err != nil {
		return fmt.Errorf("print the trace: %w", err)
	}
	if !same {
		return errReported
	}
	return nil
}

// lines gathers text.
type lines struct{ strings.Builder }

func (l *lines) add(format string, args ...any) {
	l.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

func describeFlow(f service.Flow) string {
	from := "generated on this node"
	if f.In != "" {
		from = "arriving on " + f.In
	}
	to := f.Dst.String()
	if f.Protocol == service.ICMP {
		to = f.Dst.Addr().String()
	}
	return fmt.Sprintf("%s from %s to %s, %s", f.Protocol, f.Src, to, from)
}

func ifMasq(masq bool) string {
	if masq {
		return ", masqueraded"
	}
	return ""
}

func describeOutcome(o service.Outcome) string {
	s := o.Verdict.String()
	for _, h := range o.Hops {
		s += fmt.Sprintf(" %s%s", h.Endpoint.Addr, ifMasq(h.Masquerade))
	}
	return s
}
