package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/fairlead-project/fairlead/service"
)

// Names of our chains. The kernel allows 28 characters; everything that begins
// with "FL-" is ours, and nothing else is.
const (
	chainServices    = "FL-SERVICES"    // nat and filter: dispatch by address
	chainNodePorts   = "FL-NODEPORTS"   // nat and filter: dispatch by node port
	chainMark        = "FL-MARK"        // nat: mark for masquerading
	chainPostrouting = "FL-POSTROUTING" // nat: masquerade what is marked
	chainInput       = "FL-INPUT"       // filter
	chainForward     = "FL-FORWARD"     // filter
	chainOutput      = "FL-OUTPUT"      // filter
	chainHealth      = "FL-HEALTH"      // filter: accept health-check node ports

	prefixTree     = "FL-T-" // a node of the address tree, by address prefix
	prefixPortTree = "FL-N-" // a node of the node-port tree, by port prefix
	prefixFrontend = "FL-F-" // a frontend of which more than one Route leads to one pool, by its identity
	prefixAllowed  = "FL-A-" // the allowed callers of a frontend, by its identity
	prefixPool     = "FL-P-" // a pool or a part of one, and what comes before it, by its contents
	prefixHairpin  = "FL-H-" // a node of the tree of endpoint addresses, by prefix

	prefixClients = "FL-C-" // not a chain: the list of clients of an endpoint
)

// contentNamed reports whether the rules of a chain follow from its name, so
// that a chain of that name, once written, is right for good.
func contentNamed(chain string) bool {
	return strings.HasPrefix(chain, prefixPool)
}

// hashed returns prefix and 80 bits of a hash of parts, in base32.
func hashed(prefix string, parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	var sum [sha256.Size]byte
	return prefix + base32.StdEncoding.EncodeToString(h.Sum(sum[:0])[:10])
}

// frontendName names the chain of a frontend: one address, port and protocol has
// one frontend at a time.
func frontendName(prefix string, id service.PortID, fe *service.Frontend) string {
	return hashed(prefix, fe.Kind.String(), fe.Addr.String(), id.Protocol.String())
}

// clientsName names the list in which the kernel remembers which clients an
// endpoint of a Port has. It does not depend on the pool, so that clients stay
// where they are when another endpoint comes or goes.
func clientsName(p *service.Port, ep service.Endpoint) string {
	return hashed(prefixClients, p.ID.String(), ep.Addr.String())
}
