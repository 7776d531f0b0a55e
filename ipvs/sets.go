package ipvs

import (
	"net/netip"
	"strconv"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// Names in the kernel.
const (
	// Device is the dummy device of virtual addresses. kube-proxy's name is kept:
	// Calico looks for it to know that packets to Services pass INPUT.
	deviceName = "kube-ipvs0"
	// routeTable holds a local route for every virtual address.
	routeTable = 17996
	// rulePriority is before the rules of everybody else.
	rulePriority = 90
	// setPrefix begins the name of every set of ours.
	setPrefix = "FL"
)

// A member is a bit for each set of addresses and ports that a unit can be in.
type member uint16

// The sets of type hash:ip,port, in the order in which elements are added.
const (
	// inOwn are the virtual servers we made. An element is there before its
	// server and after it, so that what is ours can be told by anybody.
	inOwn      member = 1 << iota
	inFW              // only the callers in the set FWSRC may come
	inMasq            // every caller is masqueraded
	inMasqX           // every caller but pods of this node is masqueraded
	inRefuse          // new connections are rejected
	inDrop            // new connections are dropped, except as inShort says
	inShort           // callers on this node are sent to the alias
	inVIP             // packets are routed to the node; what is in no other set first is published here
	numMembers = 8
)

func memberNames() [numMembers]string {
	return [...]string{"OWN", "FW", "MASQ", "MASQX", "REFUSE", "DROP", "SHORT", "VIP"}
}

// A use is a bit for each thing the address of a unit can be needed for.
type use uint8

// The uses. The first three are sets of type hash:ip.
const (
	useAddr    use = 1 << iota // answers ping, takes ICMP errors
	useExt                     // takes ICMP errors that belong to a connection
	useCluster                 // rejects what nobody has declared
	useDevice                  // is an address of the device
	useRoute                   // has a route in our table
	numUses    = 5
)

func useNames() [3]string { return [...]string{"ADDR", "EXT", "CLUSTER"} }

// setName returns the name of a set, such as FL4-VIP.
func setName(f service.Family, name string) string {
	if f == service.IPv4 {
		return setPrefix + "4-" + name
	}
	return setPrefix + "6-" + name
}

func memberSet(f service.Family, i int) string { return setName(f, memberNames()[i]) }

// Sets beside those of members and uses.
const (
	allowedSet = "FWSRC" // hash:ip,port,net: who may call what is inFW
	healthSet  = "HC"    // bitmap:port: health-check node ports
)

// maxElem is how many elements a set is made for. A hash set grows as it is
// filled; a higher limit costs nothing.
const maxElem = 1 << 20

// sets returns all sets of a family, empty.
func sets(f service.Family) []kernel.Set {
	var out []kernel.Set
	add := func(name string, t kernel.SetType) {
		s := kernel.Set{Name: setName(f, name), Type: t, Family: f, MaxElem: maxElem}
		if t == kernel.BitmapPort {
			s.MaxElem = 0
		}
		out = append(out, s)
	}
	for _, n := range memberNames() {
		add(n, kernel.HashIPPort)
	}
	for _, n := range useNames() {
		add(n, kernel.HashIP)
	}
	add(allowedSet, kernel.HashIPPortNet)
	add(healthSet, kernel.BitmapPort)
	return out
}

// aliasPrefix is where the aliases of a family are: addresses that stand for a
// frontend when the caller is on this node. They never leave it. Class E (RFC
// 1112) is nobody's, and the rest of an IPv4 address fits behind it.
func aliasPrefix(f service.Family) netip.Prefix {
	if f == service.IPv4 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{240}), 4)
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0xfa}), 16)
}

// aliasOf returns what the target NETMAP makes of a.
func aliasOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		b := a.As4()
		b[0] |= 0xf0
		return netip.AddrFrom4(b)
	}
	b := a.As16()
	b[0], b[1] = 0xfd, 0xfa
	return netip.AddrFrom16(b)
}

// element is the member of a hash:ip,port set that stands for key.
func element(key kernel.ServerKey) kernel.Element {
	return kernel.Element{Addr: key.Addr.Addr(), Port: key.Addr.Port(), Protocol: key.Protocol}
}

// elementText is e as ipset(8) writes it.
func elementText(e kernel.Element) string {
	var s string
	if e.Addr.IsValid() {
		s = e.Addr.String()
	}
	if e.Port != 0 {
		if s != "" {
			s += "," + e.Protocol.String() + ":"
		}
		s += strconv.Itoa(int(e.Port))
	}
	if e.Net.IsValid() {
		s += "," + e.Net.String()
	}
	return s
}
