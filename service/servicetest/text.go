package servicetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/service"
)

// String returns w as indented text, short enough to read and complete enough
// to write a corpus case from.
func (w *World) String() string {
	var b strings.Builder
	n := w.Node
	fmt.Fprintf(&b, "node: {name: %s, zone: %q, addrs: %v, portAddrs: %v, localhostPorts: %v, masqueradeAll: %v}\n",
		n.Name, n.Zone, n.Addrs, n.PortAddrs, n.LocalhostPorts, n.MasqueradeAll)
	fmt.Fprintf(&b, "pods: {prefixes: %v, interface: %q, isPrefix: %v}\n", n.Pods.Prefixes, n.Pods.Interface, n.Pods.IsPrefix)
	for _, name := range slices.SortedFunc(maps.Keys(w.Services), service.Name.Compare) {
		writeService(&b, w.Services[name])
	}
	for _, k := range slices.SortedFunc(maps.Keys(w.Slices), SliceKey.compare) {
		writeSlice(&b, w.Slices[k])
	}
	return b.String()
}

func writeService(b *strings.Builder, v *service.Service) {
	fmt.Fprintf(b, "service %s: {created: %s, families: %v, clusterIPs: %v, headless: %v}\n",
		v.Name, v.Created.Format("15:04:05"), v.Families, v.ClusterIPs, v.Headless)
	if v.Internal != service.Cluster || v.External != service.Cluster {
		fmt.Fprintf(b, "  policies: {internalLocal: %v, externalLocal: %v, health: %d}\n", v.Internal == service.Local, v.External == service.Local, v.HealthCheckNodePort)
	}
	if len(v.ExternalIPs) > 0 {
		fmt.Fprintf(b, "  externalIPs: %v\n", v.ExternalIPs)
	}
	if len(v.LoadBalancerIPs) > 0 || v.Restricted {
		fmt.Fprintf(b, "  loadBalancer: {ips: %v, restricted: %v, sourceRanges: %v}\n", v.LoadBalancerIPs, v.Restricted, v.SourceRanges)
	}
	if v.Affinity > 0 {
		fmt.Fprintf(b, "  affinity: %s\n", v.Affinity)
	}
	if v.Scheduling != (service.Scheduling{}) {
		fmt.Fprintf(b, "  scheduling: {algorithm: %q, flags: %q}\n", v.Scheduling.Algorithm, v.Scheduling.Flags)
	}
	for _, p := range v.Ports {
		fmt.Fprintf(b, "  port: {name: %q, protocol: %s, port: %d, nodePort: %d}\n", p.Name, p.Protocol, p.Port, p.NodePort)
	}
}

func writeSlice(b *strings.Builder, s *service.Slice) {
	fmt.Fprintf(b, "slice %s of %s: {family: %s, weight: %d}\n", s.Name, s.Service, s.Family, max(1, s.Weight))
	for _, p := range s.Ports {
		fmt.Fprintf(b, "  port: {name: %q, protocol: %s, port: %d}\n", p.Name, p.Protocol, p.Port)
	}
	for _, e := range s.Endpoints {
		fmt.Fprintf(b, "  endpoint: {addr: %s, node: %q, ready: %v, serving: %v, terminating: %v", e.Addr(), e.Node, e.Ready, e.Serving, e.Terminating)
		if len(e.ForZones)+len(e.ForNodes) > 0 {
			fmt.Fprintf(b, ", zones: %v, nodes: %v", e.ForZones, e.ForNodes)
		}
		b.WriteString("}\n")
	}
}

// describeFlow returns fl in one line.
func describeFlow(fl service.Flow) string {
	in := fl.In
	if in == "" {
		in = "none: sent by the node"
	}
	return fmt.Sprintf("%s %s -> %s (interface %s)", fl.Protocol, fl.Src, fl.Dst, in)
}

// describeOutcome returns out in the words of a flow directive.
func describeOutcome(out service.Outcome) string {
	var b strings.Builder
	b.WriteString(out.Verdict.String())
	for _, h := range out.Hops {
		b.WriteString(" " + h.Endpoint.Addr.String())
		if h.Masquerade {
			b.WriteString("+masq")
		}
	}
	return b.String()
}
