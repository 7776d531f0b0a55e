package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A ServerKey names a virtual server by its address. Servers on firewall marks
// are never ours and never show here.
type ServerKey struct {
	Addr     netip.AddrPort
	Protocol service.Protocol // TCP, UDP or SCTP
}

// String returns "tcp 10.96.0.1:443".
func (k ServerKey) String() string { return k.Protocol.String() + " " + k.Addr.String() }

// Compare orders keys by protocol, address and port.
func (k ServerKey) Compare(o ServerKey) int {
	if k.Protocol != o.Protocol {
		return int(k.Protocol) - int(o.Protocol)
	}
	return k.Addr.Compare(o.Addr)
}

// Flags are those of a virtual server (IP_VS_SVC_F_… of linux/ip_vs.h). What the
// kernel adds of its own, IP_VS_SVC_F_HASHED, is never in them.
type Flags uint32

// The flags a server can have. What the three of the scheduler mean is up to it:
// for sh and mh the first is "fallback" and the second "port".
const (
	Persistent Flags = 0x1
	OnePacket  Flags = 0x4
	Sched1     Flags = 0x8
	Sched2     Flags = 0x10
	Sched3     Flags = 0x20
)

// A Server is how a virtual server balances.
type Server struct {
	Scheduler string
	Flags     Flags
	Timeout   time.Duration // of persistence, in whole seconds; zero unless Persistent
}

// Conns are the connections of a destination, as the kernel counts them: the
// active are established, the inactive are in any other state, TIME_WAIT too.
type Conns struct {
	Active, Inactive uint32
}

// Idle reports whether nothing is left.
func (c Conns) Idle() bool { return c.Active == 0 && c.Inactive == 0 }

// A Dest is a destination of a virtual server, always by masquerading (NAT).
type Dest struct {
	Addr   netip.AddrPort
	Weight uint32 // 0 takes no new connections
	Conns  Conns  // only in what was read
	Other  bool   // only in what was read: it forwards by tunnel or route, so it is not ours
}

// A ServerState is a virtual server as it was read.
type ServerState struct {
	Server
	Dests []Dest // sorted by address
}

// A SetType is the type of an ipset, by the name ipset(8) has for it.
type SetType string

// The types in use.
const (
	HashIP        SetType = "hash:ip"
	HashIPPort    SetType = "hash:ip,port"
	HashIPPortNet SetType = "hash:ip,port,net"
	BitmapPort    SetType = "bitmap:port" // 0 to 65535, of no family
)

// A Set is an ipset. Hash sets hold up to MaxElem elements.
type Set struct {
	Name    string // at most 31 bytes (IPSET_MAXNAMELEN)
	Type    SetType
	Family  service.Family
	MaxElem uint32 // zero for BitmapPort
}

// An Element is a member of a set. Fields that the type of the set does not have
// are zero.
type Element struct {
	Addr     netip.Addr
	Port     uint16
	Protocol service.Protocol
	Net      netip.Prefix // never of length 0: ipset has no such element
}

// A Rule is a routing policy rule: packets with the mark look at the table.
type Rule struct {
	Family   service.Family
	Priority uint32
	Mark     uint32
	Mask     uint32
	Table    uint32
}

// An Op is one change of the kernel.
type Op interface {
	fmt.Stringer // for logs and errors: "add server tcp 10.96.0.1:443 rr"
	op()
}

// The changes. Each is refused by the kernel, with the error in brackets, if it
// makes no sense, and an error never keeps the ops after it from being tried.
// An address that is missing, or is IPv4 mapped into IPv6, is EINVAL everywhere.
type (
	// NewServer adds a virtual server [EEXIST; ENOENT for an unknown scheduler].
	NewServer struct {
		Key ServerKey
		Server
	}
	// SetServer changes one in place, which no connection notices [ESRCH;
	// ENOENT for an unknown scheduler].
	SetServer struct {
		Key ServerKey
		Server
	}
	// DelServer removes one with its destinations [ESRCH].
	DelServer struct{ Key ServerKey }

	// NewDest adds a destination [ESRCH for the server, EEXIST].
	NewDest struct {
		Key    ServerKey
		Addr   netip.AddrPort
		Weight uint32
	}
	// SetDest changes the weight of one [ESRCH for the server, ENOENT].
	SetDest struct {
		Key    ServerKey
		Addr   netip.AddrPort
		Weight uint32
	}
	// DelDest removes one; its connections are reset at their next packet
	// [ESRCH for the server, ENOENT].
	DelDest struct {
		Key  ServerKey
		Addr netip.AddrPort
	}

	// NewSet creates a set; one of the same name and type is taken as it is
	// [EEXIST if it is of another type or size].
	NewSet struct{ Set Set }
	// DelSet destroys one [ENOENT; EBUSY while rules refer to it].
	DelSet struct{ Name string }
	// SwapSets exchanges the contents of two sets of one type [ENOENT; EINVAL
	// for different types].
	SwapSets struct{ A, B string }
	// AddElem adds an element; one that is there already is no error
	// [ENOENT for the set; ErrSetFull].
	AddElem struct {
		Set  string
		Type SetType
		Elem Element
	}
	// DelElem removes one; one that is not there is no error [ENOENT for the set].
	DelElem struct {
		Set  string
		Type SetType
		Elem Element
	}

	// NewDevice creates the dummy device and leaves it down [EEXIST].
	NewDevice struct{ Name string }
	// DelDevice removes it with its addresses [ENODEV].
	DelDevice struct{ Name string }
	// AddAddr gives the device an address of the scope host. If Routed, the
	// local route that comes with it is removed, so that the address answers
	// no ARP and catches nothing. An address that is there is no error, and its
	// local route is put right. [ENODEV]
	AddAddr struct {
		Device string
		Addr   netip.Addr
		Routed bool
	}
	// DelAddr takes one away; one that is not there is no error [ENODEV].
	DelAddr struct {
		Device string
		Addr   netip.Addr
	}
	// AddRoute adds a route of type local over the loopback device; one that is
	// there is no error.
	AddRoute struct {
		Table uint32
		To    netip.Prefix
	}
	// DelRoute removes one; one that is not there is no error.
	DelRoute struct {
		Table uint32
		To    netip.Prefix
	}
	// AddRule adds a rule [EEXIST].
	AddRule struct{ Rule Rule }
	// DelRule removes one [ENOENT].
	DelRule struct{ Rule Rule }
)

// ErrSetFull is the error of AddElem for a set that holds MaxElem elements.
var ErrSetFull = errors.New("the set is full")

// An OpError says that the kernel refused one op.
type OpError struct {
	Index int // in the list given to Apply
	Op    Op
	Err   error // a syscall.Errno, or ErrSetFull
}

// Error names the op and the reason.
func (e *OpError) Error() string { return e.Op.String() + ": " + e.Err.Error() }

// Unwrap returns e.Err.
func (e *OpError) Unwrap() error { return e.Err }

// A DeviceState is the dummy device as it was read.
type DeviceState struct {
	Exists bool
	Up     bool
	Addrs  map[netip.Addr]AddrState
}

// An AddrState says what is known of an address of the device.
type AddrState struct {
	Local bool // its route in the table local is there
}

// A Kernel is everything of the kernel that the dataplane writes by netlink.
// Implementations are not safe for concurrent use.
type Kernel interface {
	// Apply makes the changes in order, with as few messages as it can. It
	// returns those that were refused, sorted by index. The error means that
	// the kernel could not be reached, or did not say what it did: then nothing
	// is known of any op.
	Apply(ctx context.Context, ops []Op) ([]*OpError, error)

	// Servers reads every virtual server by address, whoever made it, at a cost
	// of O(all destinations).
	Servers(ctx context.Context) (map[ServerKey]*ServerState, error)
	// Server reads one, or returns nil if there is none.
	Server(ctx context.Context, key ServerKey) (*ServerState, error)

	// Sets reads the sets whose names begin with prefix, without their elements.
	// The family of a BitmapPort is read as the zero one.
	Sets(ctx context.Context, prefix string) ([]Set, error)
	// Elements reads the elements of one set [ENOENT].
	Elements(ctx context.Context, name string) ([]Element, error)

	// Device reads a dummy device; one that is not there is no error. Link-local
	// IPv6 addresses are left out.
	Device(ctx context.Context, name string) (DeviceState, error)
	// Routes reads the local routes of a table, in both families.
	Routes(ctx context.Context, table uint32) ([]netip.Prefix, error)
	// Rules reads the rules that look at a table, in both families, and at
	// nothing of a packet but its mark.
	Rules(ctx context.Context, table uint32) ([]Rule, error)
}
