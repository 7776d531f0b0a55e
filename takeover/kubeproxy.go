package takeover

import (
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// The chains of kube-proxy, of every version and both modes: pkg/proxy/iptables and
// pkg/proxy/ipvs, proxier.go.
const (
	chainMarkMasq    = "KUBE-MARK-MASQ"
	chainPostrouting = "KUBE-POSTROUTING"
	chainCanary      = "KUBE-PROXY-CANARY"
)

// entries are the chains that kube-proxy jumps to from built-in chains.
func entries(t xt.Table) []string {
	switch t {
	case xt.NAT:
		return []string{"KUBE-SERVICES", chainPostrouting}
	case xt.Filter:
		return []string{
			"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL",
			"KUBE-NODE-PORT", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
		}
	default:
		return nil
	}
}

// others are the chains of kube-proxy that are reached from its others, or not at
// all.
func others(t xt.Table) []string {
	if t == xt.NAT {
		return []string{chainMarkMasq, "KUBE-NODEPORTS", "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", chainCanary}
	}
	return []string{chainCanary}
}

// prefixes begin the names of the chains of single Services and endpoints.
func prefixes() []string {
	return []string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-"}
}

// hashLength is how many characters of base32 follow a prefix.
const hashLength = 16

func isHash(s string) bool {
	return len(s) == hashLength && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// kubeProxy tells kube-proxy's chains. With the mark that KUBE-MARK-MASQ sets goes the
// rule that obeys it.
func kubeProxy() xt.Owner {
	return xt.Owner{
		Chain: func(c xt.ChainRef) bool {
			if slices.Contains(entries(c.Table), c.Name) || slices.Contains(others(c.Table), c.Name) {
				return true
			}
			return c.Table == xt.NAT && slices.ContainsFunc(prefixes(), func(p string) bool {
				hash, ok := strings.CutPrefix(c.Name, p)
				return ok && isHash(hash)
			})
		},
		Entry: func(c xt.ChainRef) bool { return slices.Contains(entries(c.Table), c.Name) },
		Needs: func(c xt.ChainRef) []xt.ChainRef {
			if c.Name == chainMarkMasq {
				return []xt.ChainRef{{Table: xt.NAT, Name: chainPostrouting}}
			}
			return nil
		},
	}
}

// A setUse is what the elements of a set of kube-proxy say.
type setUse uint8

const (
	useNothing   setUse = iota // nothing about what is whose
	useServers                 // addresses and ports of virtual servers
	usePortsTCP                // node ports of virtual servers
	usePortsUDP                // the same
	useAddresses               // of the device kube-ipvs0
)

// kubeSets are the sets of kube-proxy in ipvs mode (pkg/proxy/ipvs/ipset.go), by their
// names for IPv4.
func kubeSets() map[string]setUse {
	return map[string]setUse{
		"KUBE-LOOP-BACK":                 useNothing,
		"KUBE-CLUSTER-IP":                useServers,
		"KUBE-EXTERNAL-IP":               useServers,
		"KUBE-EXTERNAL-IP-LOCAL":         useServers,
		"KUBE-LOAD-BALANCER":             useServers,
		"KUBE-LOAD-BALANCER-LOCAL":       useServers,
		"KUBE-LOAD-BALANCER-FW":          useNothing,
		"KUBE-LOAD-BALANCER-SOURCE-IP":   useNothing,
		"KUBE-LOAD-BALANCER-SOURCE-CIDR": useNothing,
		"KUBE-NODE-PORT-TCP":             usePortsTCP,
		"KUBE-NODE-PORT-LOCAL-TCP":       usePortsTCP,
		"KUBE-NODE-PORT-UDP":             usePortsUDP,
		"KUBE-NODE-PORT-LOCAL-UDP":       usePortsUDP,
		"KUBE-NODE-PORT-SCTP-HASH":       useServers,
		"KUBE-NODE-PORT-LOCAL-SCTP-HASH": useServers,
		"KUBE-HEALTH-CHECK-NODE-PORT":    useNothing,
		"KUBE-IPVS-IPS":                  useAddresses,
	}
}

// maxSetName is where kube-proxy cuts names (IPSET_MAXNAMELEN).
const maxSetName = 31

// useOf tells what a set of kube-proxy says, and whether it is one.
func useOf(name string) (setUse, bool) {
	for v4, u := range kubeSets() {
		v6 := "KUBE-6-" + strings.TrimPrefix(v4, "KUBE-")
		if name == v4 || name == v6[:min(len(v6), maxSetName)] {
			return u, true
		}
	}
	return useNothing, false
}
