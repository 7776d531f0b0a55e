package servicetest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/service"
)

// Addresses of the world that doc.go describes.
const (
	nodeName   = "n1"
	nodeAddrs  = "172.18.0.11,fd00:172:18::11"
	gateways   = "10.244.1.1,fd00:10:244:1::1"
	clusterNet = "10.244.0.0/16,fd00:10:244::/48"
	everywhere = "0.0.0.0/0,::/0"
	serviceNet = "10.96.0.0/16,fd00:10:96::/112"
	foreignNet = "172.18.0.0/24,fd00:172:18::/64,10.244.0.0/16,fd00:10:244::/48" // nodes and pods
	clientNet  = "198.51.100.0/24,2001:db8:51::/64"
	virtualNet = "203.0.113.0/24,2001:db8:113::/64"
)

// setNode applies the options of a node directive to the default node.
func (l *loader) setNode(opts []string) error {
	var cfg Config
	for _, o := range opts {
		if err := cfg.set(o); err != nil {
			return err
		}
	}
	n, err := cfg.node()
	if err != nil {
		return err
	}
	l.c.Config, l.c.Node = cfg, n
	return nil
}

// set applies one option.
func (c *Config) set(option string) error {
	key, val, _ := strings.Cut(option, "=")
	var into *string
	switch key {
	case "masqueradeall":
		if val != "" || c.MasqueradeAll {
			return errors.New("want masqueradeall once, without a value")
		}
		c.MasqueradeAll = true
		return nil
	case "localhostports":
		if val != "on" {
			return fmt.Errorf("localhostports is %q, want on", val)
		}
		c.LocalhostPorts = true
		return nil
	case "zone":
		into = &c.Zone
	case "addrs":
		into = &c.Addrs
	case "nodeports":
		into = &c.NodePorts
	case "detector":
		into = &c.Detector
	case "podcidr":
		into, val = &c.Detector, "node:"+val
	default:
		return fmt.Errorf("unknown node option %q", option)
	}
	if val == "" || *into != "" {
		return fmt.Errorf("node option %q is empty or repeated", key)
	}
	*into = val
	return nil
}

// node returns what c means in the world.
func (c Config) node() (service.Node, error) {
	n := service.Node{
		Name: nodeName, Zone: c.Zone,
		LocalhostPorts: c.LocalhostPorts, MasqueradeAll: c.MasqueradeAll,
	}
	var err error
	primary, err := parseAddrs(nodeAddrs)
	if err != nil {
		return n, err
	}
	for _, a := range primary {
		n.Primary[service.FamilyOf(a)] = a
	}
	list := nodeAddrs + "," + gateways
	if c.Addrs != "" {
		list += "," + c.Addrs
	}
	if n.Addrs, err = parseAddrs(list); err != nil {
		return n, err
	}
	slices.SortFunc(n.Addrs, netip.Addr.Compare)
	if n.PortAddrs, err = c.portAddrs(n.Primary); err != nil {
		return n, err
	}
	n.Pods, err = c.detector()
	return n, err
}

func (c Config) portAddrs(primary [service.NumFamilies]netip.Addr) (out [service.NumFamilies][]netip.Prefix, err error) {
	list := c.NodePorts
	switch list {
	case "none":
		return out, nil
	case "primary":
		for f, a := range primary {
			out[f] = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
		}
		return out, nil
	case "":
		list = everywhere
	}
	prefixes, err := parsePrefixes(list)
	for _, p := range prefixes {
		f := service.FamilyOf(p.Addr())
		out[f] = append(out[f], p)
	}
	return out, err
}

func (c Config) detector() (service.Detector, error) {
	kind, arg, _ := strings.Cut(c.Detector, ":")
	switch kind {
	case "none":
		return service.Detector{}, nil
	case "bridge", "prefix":
		if arg == "" {
			return service.Detector{}, fmt.Errorf("detector %s wants a name", kind)
		}
		return service.Detector{Interface: arg, IsPrefix: kind == "prefix"}, nil
	case "", "cidr", "node":
		if arg == "" {
			arg = clusterNet
		}
		prefixes, err := parsePrefixes(arg)
		var d service.Detector
		for _, p := range prefixes {
			d.Prefixes[service.FamilyOf(p.Addr())] = p
		}
		return d, err
	default:
		return service.Detector{}, fmt.Errorf("unknown detector %q", c.Detector)
	}
}

func parseAddrs(list string) ([]netip.Addr, error) {
	var out []netip.Addr
	for s := range strings.SplitSeq(list, ",") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func parsePrefixes(list string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for s := range strings.SplitSeq(list, ",") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("%s has host bits, want %s", p, p.Masked())
		}
		out = append(out, p)
	}
	return out, nil
}

// within reports whether a is in one of the prefixes of list, a constant above.
func within(a netip.Addr, list string) bool {
	for s := range strings.SplitSeq(list, ",") {
		if netip.MustParsePrefix(s).Contains(a) {
			return true
		}
	}
	return false
}

// podNumber returns K and M of a pod or gateway address of the world, or false.
func podNumber(a netip.Addr) (k, m int, ok bool) {
	b := a.AsSlice()
	if !within(a, clusterNet) {
		return 0, 0, false
	}
	k, m = int(b[len(b)-2]), int(b[len(b)-1])
	if a.Is6() {
		// fd00:10:244:K::M: the digits of M are decimal digits by convention.
		if b[6] != 0 || [6]byte(b[8:14]) != [6]byte{} || b[14] != 0 || m&0xf > 9 || m>>4 > 9 {
			return 0, 0, false
		}
		k, m = int(b[7]), m>>4*10+m&0xf
	}
	return k, m, k >= 1 && k <= 3 && m >= 1 && m <= 60
}
