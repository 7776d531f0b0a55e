package userspace

import (
	"cmp"
	"net/netip"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// The routing of packets to the node.
const (
	routeTable   = 17997
	rulePriority = 90
)

// A setID is one of our ipsets, in one family.
type setID uint8

// The sets, in the order in which an address and port enters them; it leaves them
// in the reverse order. So at every moment a packet meets what was, or what is to
// be: who may call is known before callers are limited, and what attracts packets
// comes last.
const (
	setAllowed setID = iota // hash:ip,port,net: who may call what is in setLimited
	setLimited              // only the callers in setAllowed may come
	setCluster              // hash:ip: addresses whose undeclared ports are rejected
	setRefuse               // nothing serves it: new connections are rejected
	setShort                // callers on this node are served, whatever the next set says
	setDrop                 // new connections are dropped
	setVIP                  // served
	setHealth               // bitmap:port: health-check node ports, accepted in INPUT
	numSets    = 8
)

// setName returns the name of a set, such as FLU4-VIP.
func setName(f service.Family, id setID) string {
	return setPrefix(f) + [...]string{"FWSRC", "FW", "CLUSTER", "REFUSE", "SHORT", "DROP", "VIP", "HC"}[id]
}

// setPrefix starts the names of the sets of a family, and of no other dataplane's.
func setPrefix(f service.Family) string {
	if f == service.IPv4 {
		return "FLU4-"
	}
	return "FLU6-"
}

func (id setID) kind() kernel.SetType {
	switch id {
	case setAllowed:
		return kernel.HashIPPortNet
	case setCluster:
		return kernel.HashIP
	case setHealth:
		return kernel.BitmapPort
	default:
		return kernel.HashIPPort
	}
}

// maxElem is how many elements a set can hold. A hash set grows as it is filled; a
// high limit costs nothing.
const maxElem = 1 << 22

func setOf(f service.Family, id setID) kernel.Set {
	s := kernel.Set{Name: setName(f, id), Type: id.kind(), Family: f, MaxElem: maxElem}
	if s.Type == kernel.BitmapPort {
		s.MaxElem = 0
	}
	return s
}

// A member is one element of one set.
type member struct {
	family service.Family
	set    setID
	elem   kernel.Element
}

func (m member) compare(o member) int {
	return cmp.Or(
		cmp.Compare(m.set, o.set), cmp.Compare(m.family, o.family), m.elem.Addr.Compare(o.elem.Addr),
		cmp.Compare(m.elem.Protocol, o.elem.Protocol), cmp.Compare(m.elem.Port, o.elem.Port),
		m.elem.Net.Compare(o.elem.Net),
	)
}

func (m member) add() kernel.Op {
	return kernel.AddElem{Set: setName(m.family, m.set), Type: m.set.kind(), Elem: m.elem}
}

func (m member) remove() kernel.Op {
	return kernel.DelElem{Set: setName(m.family, m.set), Type: m.set.kind(), Elem: m.elem}
}

// A Place is an address, port and protocol that packets are sent to.
type Place struct {
	Protocol service.Protocol // TCP or UDP; SCTP is in sets only
	Addr     netip.AddrPort
}

func (p Place) in(set setID) member {
	return member{service.FamilyOf(p.Addr.Addr()), set, kernel.Element{
		Addr: p.Addr.Addr(), Port: p.Addr.Port(), Protocol: p.Protocol,
	}}
}
