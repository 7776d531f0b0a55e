package kube

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/service"
)

// taintToBeDeleted is put on a node by the cluster autoscaler before it takes
// the node away.
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// A NodeInfo is what a Node object says that matters on that node.
type NodeInfo struct {
	Name string // as in Node of [service.SliceEndpoint]
	UID  string
	Zone string // empty if not known

	// Addrs are the internal and then the external addresses, in the order of
	// the object, without doubles. The first decides the primary family.
	Addrs []netip.Addr

	// PodCIDRs are the prefixes the node takes pod addresses from, at most one
	// per family, in the order of the object.
	PodCIDRs []netip.Prefix

	Deleted     bool // the object is being deleted
	ToBeDeleted bool // the cluster autoscaler is about to remove the machine
}

// Node converts o. What cannot be parsed is left out and is a Problem.
func Node(o *corev1.Node) (NodeInfo, []service.Problem) {
	c := complaints{object: service.Object{
		Kind: "Node",
		Name: service.Name{Name: o.Name},
		UID:  string(o.UID),
	}}
	return NodeInfo{
		Name:     nodeName(o.Name),
		UID:      string(o.UID),
		Zone:     o.Labels[corev1.LabelTopologyZone],
		Addrs:    nodeAddrs(o, &c),
		PodCIDRs: podCIDRs(o, &c),
		Deleted:  o.DeletionTimestamp != nil,
		ToBeDeleted: slices.ContainsFunc(o.Spec.Taints, func(t corev1.Taint) bool {
			return t.Key == taintToBeDeleted
		}),
	}, c.all()
}

func nodeAddrs(o *corev1.Node, c *complaints) []netip.Addr {
	var out []netip.Addr
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for i, in := range o.Status.Addresses {
			if in.Type != kind {
				continue
			}
			a, err := parseAddr(in.Address)
			if err != nil {
				c.add(reasonAddress, at("status.addresses", i), "%v", err)
			} else if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

func podCIDRs(o *corev1.Node, c *complaints) []netip.Prefix {
	list := o.Spec.PodCIDRs
	if len(list) == 0 && o.Spec.PodCIDR != "" { // from before dual stack
		list = []string{o.Spec.PodCIDR}
	}
	var out []netip.Prefix
	var seen [service.NumFamilies]bool
	for i, s := range list {
		p, err := parsePrefix(s)
		if err != nil {
			c.add(reasonAddress, at("spec.podCIDRs", i), "%v", err)
			continue
		}
		f := service.FamilyOf(p.Addr())
		if !seen[f] {
			seen[f] = true
			out = append(out, p)
		}
	}
	return out
}

// Primary returns the first address of each family, or the zero Addr.
func (n NodeInfo) Primary() [service.NumFamilies]netip.Addr {
	var out [service.NumFamilies]netip.Addr
	for _, a := range n.Addrs {
		if f := service.FamilyOf(a); !out[f].IsValid() {
			out[f] = a
		}
	}
	return out
}

// Eligible reports whether load balancers should send new connections to this
// node: the answer at /healthz, after KEP-3836.
func (n NodeInfo) Eligible() bool { return !n.Deleted && !n.ToBeDeleted }

// Equal reports whether n and o say the same.
func (n NodeInfo) Equal(o NodeInfo) bool {
	return n.Name == o.Name && n.UID == o.UID && n.Zone == o.Zone &&
		n.Deleted == o.Deleted && n.ToBeDeleted == o.ToBeDeleted &&
		slices.Equal(n.Addrs, o.Addrs) && slices.Equal(n.PodCIDRs, o.PodCIDRs)
}
