package ipvs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// AppendText appends st without its rules, sorted: virtual servers as "ipvsadm
// -Sn" prints them, elements of sets as "ipset save" does, and the addresses and
// routes as they are given to ip(8).
func (st *State) AppendText(b []byte) []byte {
	for _, f := range st.planner.cfg.families() {
		b = st.appendServers(b, f)
		b = st.appendSets(b, f)
		b = st.appendAddresses(b, f)
	}
	return b
}

func (st *State) keysOf(f service.Family) []kernel.ServerKey {
	return slices.DeleteFunc(st.keys(), func(k kernel.ServerKey) bool { return service.FamilyOf(k.Addr.Addr()) != f })
}

func (st *State) appendServers(b []byte, f service.Family) []byte {
	for _, key := range st.keysOf(f) {
		u := st.units[key]
		if !u.serves {
			continue
		}
		at := option(key.Protocol) + " " + key.Addr.String()
		b = fmt.Appendf(b, "-A %s -s %s%s\n", at, u.server.Scheduler, flagsText(u.server))
		for _, ep := range u.pool {
			b = fmt.Appendf(b, "-a %s -r %s -m -w %d\n", at, ep.Addr, ep.Share())
		}
	}
	return b
}

// option is how ipvsadm is given a virtual server of protocol p.
func option(p service.Protocol) string {
	switch p {
	case service.TCP:
		return "-t"
	case service.UDP:
		return "-u"
	default:
		return "--sctp-service"
	}
}

// flagsText is how ipvsadm gives the flags of s.
func flagsText(s kernel.Server) string {
	var out string
	if s.Flags&kernel.Persistent != 0 {
		out += fmt.Sprintf(" -p %d", int(s.Timeout.Seconds()))
	}
	names := []string{"flag-1", "flag-2", "flag-3"}
	if s.Scheduler == "sh" || s.Scheduler == "mh" {
		names = []string{s.Scheduler + "-fallback", s.Scheduler + "-port", "flag-3"}
	}
	sep := " -b "
	for i, flag := range []kernel.Flags{kernel.Sched1, kernel.Sched2, kernel.Sched3} {
		if s.Flags&flag != 0 {
			out += sep + names[i]
			sep = ","
		}
	}
	return out
}

func (st *State) appendSets(b []byte, f service.Family) []byte {
	keys := st.keysOf(f)
	for i := range numMembers {
		for _, key := range keys {
			if st.units[key].in&(1<<i) != 0 {
				b = fmt.Appendf(b, "add %s %s\n", memberSet(f, i), elementText(element(key)))
			}
		}
	}
	for _, key := range keys {
		for _, p := range st.units[key].sources {
			e := element(key)
			e.Net = p
			b = fmt.Appendf(b, "add %s %s\n", setName(f, allowedSet), elementText(e))
		}
	}
	for i, name := range useNames() {
		for _, a := range st.addrsOf(f, 1<<i) {
			b = fmt.Appendf(b, "add %s %s\n", setName(f, name), a)
		}
	}
	for _, p := range st.health[f] {
		b = fmt.Appendf(b, "add %s %d\n", setName(f, healthSet), p)
	}
	return b
}

func (st *State) addrsOf(f service.Family, u use) []netip.Addr {
	var out []netip.Addr
	for a, c := range maps.All(st.uses) {
		if service.FamilyOf(a) == f && c.use()&u != 0 {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func (st *State) appendAddresses(b []byte, f service.Family) []byte {
	for _, a := range st.addrsOf(f, useDevice) {
		b = fmt.Appendf(b, "address add %s/%d dev %s scope host\n", a, a.BitLen(), deviceName)
		if st.planner.cfg.VIPMode == Routed {
			b = fmt.Appendf(b, "route del local %s dev %s table local\n", a, deviceName)
		}
	}
	for _, a := range st.addrsOf(f, useRoute) {
		b = fmt.Appendf(b, "route add local %s dev lo table %d\n", a, routeTable)
	}
	return b
}
