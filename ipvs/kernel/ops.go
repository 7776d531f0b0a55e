package kernel

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

func (NewServer) op() {}
func (SetServer) op() {}
func (DelServer) op() {}
func (NewDest) op()   {}
func (SetDest) op()   {}
func (DelDest) op()   {}
func (NewSet) op()    {}
func (DelSet) op()    {}
func (SwapSets) op()  {}
func (AddElem) op()   {}
func (DelElem) op()   {}
func (NewDevice) op() {}
func (DelDevice) op() {}
func (AddAddr) op()   {}
func (DelAddr) op()   {}
func (AddRoute) op()  {}
func (DelRoute) op()  {}
func (AddRule) op()   {}
func (DelRule) op()   {}

// String returns "add server tcp 10.96.0.1:443 rr".
func (o NewServer) String() string { return "add server " + o.Key.String() + " " + o.Server.String() }

// String returns "set server tcp 10.96.0.1:443 wrr persistent 3h0m0s".
func (o SetServer) String() string { return "set server " + o.Key.String() + " " + o.Server.String() }

// String returns "delete server tcp 10.96.0.1:443".
func (o DelServer) String() string { return "delete server " + o.Key.String() }

// String returns "add destination tcp 10.96.0.1:443 -> 10.244.1.2:8443 weight 1".
func (o NewDest) String() string {
	return "add destination " + o.Key.String() + " -> " + o.Addr.String() + " weight " + decimal(o.Weight)
}

// String returns "set destination tcp 10.96.0.1:443 -> 10.244.1.2:8443 weight 0".
func (o SetDest) String() string {
	return "set destination " + o.Key.String() + " -> " + o.Addr.String() + " weight " + decimal(o.Weight)
}

// String returns "delete destination tcp 10.96.0.1:443 -> 10.244.1.2:8443".
func (o DelDest) String() string {
	return "delete destination " + o.Key.String() + " -> " + o.Addr.String()
}

// String returns "create set FL4-VIP hash:ip,port IPv4 maxelem 65536".
func (o NewSet) String() string { return "create set " + o.Set.String() }

// String returns "destroy set FL4-VIP".
func (o DelSet) String() string { return "destroy set " + o.Name }

// String returns "swap sets FL4-VIP and FL4-NEW".
func (o SwapSets) String() string { return "swap sets " + o.A + " and " + o.B }

// String returns "add to set FL4-VIP: 10.96.0.1,tcp:443".
func (o AddElem) String() string { return "add to set " + o.Set + ": " + o.Elem.text(o.Type) }

// String returns "remove from set FL4-VIP: 10.96.0.1,tcp:443".
func (o DelElem) String() string { return "remove from set " + o.Set + ": " + o.Elem.text(o.Type) }

// String returns "create device kube-ipvs0".
func (o NewDevice) String() string { return "create device " + o.Name }

// String returns "delete device kube-ipvs0".
func (o DelDevice) String() string { return "delete device " + o.Name }

// String returns "add address 10.96.0.1 to kube-ipvs0, routed".
func (o AddAddr) String() string {
	text := "add address " + o.Addr.String() + " to " + o.Device
	if o.Routed {
		text += ", routed"
	}
	return text
}

// String returns "remove address 10.96.0.1 from kube-ipvs0".
func (o DelAddr) String() string { return "remove address " + o.Addr.String() + " from " + o.Device }

// String returns "add route local 10.96.0.1/32 in table 17996".
func (o AddRoute) String() string {
	return "add route local " + o.To.String() + " in table " + decimal(o.Table)
}

// String returns "delete route local 10.96.0.1/32 in table 17996".
func (o DelRoute) String() string {
	return "delete route local " + o.To.String() + " in table " + decimal(o.Table)
}

// String returns "add rule IPv4 pref 90 fwmark 0x8000/0x8000 lookup 17996".
func (o AddRule) String() string { return "add rule " + o.Rule.String() }

// String returns "delete rule IPv4 pref 90 fwmark 0x8000/0x8000 lookup 17996".
func (o DelRule) String() string { return "delete rule " + o.Rule.String() }

// String returns "wrr persistent 3h0m0s".
func (s Server) String() string {
	var b strings.Builder
	b.WriteString(s.Scheduler)
	for _, f := range [...]struct {
		flag Flags
		name string
	}{{OnePacket, " one-packet"}, {Sched1, " flag-1"}, {Sched2, " flag-2"}, {Sched3, " flag-3"}} {
		if s.Flags&f.flag != 0 {
			b.WriteString(f.name)
		}
	}
	if s.Flags&Persistent != 0 {
		b.WriteString(" persistent " + s.Timeout.Round(time.Second).String())
	}
	return b.String()
}

// String returns "FL4-VIP hash:ip,port IPv4 maxelem 65536".
func (s Set) String() string {
	if s.Type == BitmapPort {
		return s.Name + " " + string(s.Type)
	}
	return s.Name + " " + string(s.Type) + " " + s.Family.String() + " maxelem " + decimal(s.MaxElem)
}

// String returns "IPv4 pref 90 fwmark 0x8000/0x8000 lookup 17996".
func (r Rule) String() string {
	return fmt.Sprintf("%v pref %d fwmark %#x/%#x lookup %d", r.Family, r.Priority, r.Mark, r.Mask, r.Table)
}

// text spells e as ipset(8) does: "10.96.0.1,tcp:443,192.0.2.0/24".
func (e Element) text(t SetType) string {
	switch t {
	case HashIP:
		return e.Addr.String()
	case BitmapPort:
		return strconv.Itoa(int(e.Port))
	case HashIPPort, HashIPPortNet:
		text := e.Addr.String() + "," + protoPort(e.Protocol, e.Port)
		if t == HashIPPortNet {
			text += "," + e.Net.String()
		}
		return text
	default:
		return fmt.Sprintf("%+v", e)
	}
}

func protoPort(p service.Protocol, port uint16) string {
	return p.String() + ":" + strconv.Itoa(int(port))
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
