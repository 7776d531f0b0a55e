//go:build linux

package world_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

var (
	caller = netip.MustParseAddr("10.244.1.9")
	vip    = netip.MustParseAddrPort("203.0.113.7:80")
	near   = netip.MustParseAddrPort("10.244.1.4:8080")
	far    = netip.MustParseAddrPort("10.244.2.5:8080")
	node   = netip.MustParseAddr("172.18.0.11")
)

func flow(v service.Verdict, hops ...service.Hop) *servicetest.FlowExpect {
	return &servicetest.FlowExpect{
		Flow: service.Flow{Src: caller, Dst: vip},
		Want: service.Outcome{Verdict: v, Hops: hops},
	}
}

func hop(a netip.AddrPort, masq bool) service.Hop {
	return service.Hop{Endpoint: service.Endpoint{Addr: a}, Masquerade: masq}
}

func reply(from netip.AddrPort, seen netip.Addr) netns.Result {
	return netns.Result{
		Class: netns.Reply, From: netns.Identity{Name: "x", Addr: from},
		SeenSource: netip.AddrPortFrom(seen, 40000), Local: netip.AddrPortFrom(caller, 40000),
	}
}

func isNode(a netip.Addr) bool { return a == node }

// TestJudgeReply holds that every kind of wrong answer is found out.
func TestJudgeReply(t *testing.T) {
	kept, masked := flow(service.Forward, hop(near, false)), flow(service.Forward, hop(near, true))
	tests := []struct {
		name string
		flow *servicetest.FlowExpect
		got  netns.Result
		want string // part of the error; empty for none
	}{
		{"kept", kept, reply(near, caller), ""},
		{"kept, but masqueraded", kept, reply(near, node), "want the caller"},
		{"masqueraded", masked, reply(near, node), ""},
		{"masqueraded, but kept", masked, reply(near, caller), "want an address of n1"},
		{"masqueraded as somebody else", masked, reply(near, far.Addr()), "want an address of n1"},
		{"another endpoint", kept, reply(far, caller), "none of the hops"},
		{"another port", kept, reply(netip.AddrPortFrom(near.Addr(), 8081), caller), "none of the hops"},
		{"the decoy", kept, reply(vip, caller), "none of the hops"},
		{"forward refused", kept, netns.Result{Class: netns.Refused}, "want an answer"},
		{"forward dropped", kept, netns.Result{Class: netns.Dropped}, "want an answer"},
		{"drop", flow(service.Drop), netns.Result{Class: netns.Dropped}, ""},
		{"drop refused", flow(service.Drop), netns.Result{Class: netns.Refused}, "want it dropped"},
		{"drop answered", flow(service.Drop), reply(near, caller), "want it dropped"},
		{"drop failed", flow(service.Drop), netns.Result{Class: netns.Failed}, "want it dropped"},
		{"reject", flow(service.Reject), netns.Result{Class: netns.Refused}, ""},
		{"reject dropped", flow(service.Reject), netns.Result{Class: netns.Dropped}, "want it refused"},
		{"reject unreachable", flow(service.Reject), netns.Result{Class: netns.Unreachable}, "want it refused"},
		{"reject answered", flow(service.Reject), reply(vip, caller), "want it refused"},
		{"pass", flow(service.Pass), reply(vip, caller), ""},
		{"pass forwarded", flow(service.Pass), reply(near, caller), "the destination itself"},
		{"pass masqueraded", flow(service.Pass), reply(vip, node), "want the caller"},
		{"pass refused", flow(service.Pass), netns.Result{Class: netns.Refused}, "the destination itself"},
		{"pass dropped", flow(service.Pass), netns.Result{Class: netns.Dropped}, "the destination itself"},
	}
	for _, tt := range tests {
		err := world.Judge{Flow: tt.flow, N1: isNode}.Reply(tt.got, world.Sightings{})
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: got %v, want no error", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

func TestJudgeEnough(t *testing.T) {
	two := flow(service.Forward, hop(near, false), hop(far, false))
	var many []service.Hop
	for range 17 {
		many = append(many, hop(near, false))
	}
	tests := []struct {
		name   string
		judge  world.Judge
		n      int
		seen   world.Sightings
		enough bool
		want   string
	}{
		{"one probe of a drop", world.Judge{Flow: flow(service.Drop)}, 1, nil, true, ""},
		{"both, too soon", world.Judge{Flow: two}, 2, world.Sightings{near: 1, far: 1}, false, ""},
		{"both", world.Judge{Flow: two}, 4, world.Sightings{near: 2, far: 2}, true, ""},
		{"one is late", world.Judge{Flow: two}, 47, world.Sightings{near: 47}, false, ""},
		{"one never comes", world.Judge{Flow: two}, 48, world.Sightings{near: 48}, true, "never to 10.244.2.5:8080"},
		{"sticky, too soon", world.Judge{Flow: two, Sticky: true}, 3, world.Sightings{near: 3}, false, ""},
		{"sticky", world.Judge{Flow: two, Sticky: true}, 6, world.Sightings{near: 6}, true, ""},
		{"unfaithful", world.Judge{Flow: two, Sticky: true}, 2, world.Sightings{near: 1, far: 1}, true, "one and the same"},
		{"large, too soon", world.Judge{Flow: flow(service.Forward, many...)}, 24, world.Sightings{near: 24}, false, ""},
		{"large", world.Judge{Flow: flow(service.Forward, many...)}, 25, world.Sightings{near: 12, far: 12, vip: 1}, true, ""},
		{"large, but always the same", world.Judge{Flow: flow(service.Forward, many...)}, 25, world.Sightings{near: 25}, true, "of 17 hops"},
	}
	for _, tt := range tests {
		enough, err := tt.judge.Enough(tt.n, tt.seen)
		if enough != tt.enough {
			t.Errorf("%s: got %t, want %t", tt.name, enough, tt.enough)
		}
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want %q", tt.name, err, tt.want)
		}
	}
}
