package service

import (
	"net/netip"
	"testing"
)

func TestStale(t *testing.T) {
	addr := netip.MustParseAddrPort
	eps := func(list ...string) (p Pool) {
		for _, s := range list {
			p = append(p, Endpoint{Addr: addr(s)})
		}
		return p
	}
	snap := func(serving Pool, frontends ...string) *Snapshot {
		p := &Port{ID: PortID{Service: Name{"default", "dns"}, Protocol: UDP}, Serving: serving}
		for _, f := range frontends {
			p.Frontends = append(p.Frontends, Frontend{Addr: addr(f)})
		}
		return &Snapshot{Ports: NewPortList(p), Node: Node{Addrs: []netip.Addr{netip.MustParseAddr("172.18.0.11")}}}
	}
	const vip, nodePort = "10.96.0.10:53", "0.0.0.0:30053"
	const a, b = "10.244.1.2:53", "10.244.2.2:53"
	tests := []struct {
		name      string
		prev, cur *Snapshot
		dst, src  string
		want      bool
	}{
		{"endpoint gone", snap(eps(a, b), vip), snap(eps(b), vip), vip, a, true},
		{"endpoint still there", snap(eps(a, b), vip), snap(eps(b), vip), vip, b, false},
		{"first endpoint after none", snap(nil, vip), snap(eps(a), vip), vip, vip, true},
		{"last endpoint gone", snap(eps(a), vip), snap(nil, vip), vip, a, true},
		{"untranslated, still no endpoint", snap(eps(a), vip), snap(nil, vip), vip, vip, false},
		{"Service deleted", snap(eps(a), vip), &Snapshot{}, vip, a, true},
		{"address removed", snap(eps(a), vip, "203.0.113.7:53"), snap(eps(a), vip), "203.0.113.7:53", a, true},
		{"another address kept", snap(eps(a), vip, "203.0.113.7:53"), snap(eps(a), vip), vip, a, false},
		{"node port", snap(eps(a), nodePort), snap(eps(b), nodePort), "172.18.0.11:30053", a, true},
		{"same number elsewhere", snap(eps(a), nodePort), snap(eps(b), nodePort), "192.0.2.1:30053", "192.0.2.1:30053", false},
		{"at start", nil, snap(eps(b), vip), vip, a, true},
		{"other destination", snap(eps(a), vip), snap(eps(b), vip), "10.96.0.11:53", a, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			flow := ConntrackFlow{Protocol: UDP, OrigDst: addr(tt.dst), ReplySrc: addr(tt.src)}
			s := NewStale(tt.prev, tt.cur)
			if got := s.Orphan(flow); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			reversed := ConntrackFlow{Protocol: UDP, OrigSrc: addr(tt.src), ReplyDst: addr(tt.dst)}
			if got := s.Orphan(reversed); got != tt.want {
				t.Errorf("begun by an answer: got %v, want %v", got, tt.want)
			}
			flow.Protocol = TCP
			if s.Orphan(flow) {
				t.Error("a TCP flow is an orphan")
			}
		})
	}

	proxied := NewStale(nil, snap(eps(a), vip))
	proxied.Untranslated()
	for src, want := range map[string]bool{a: true, vip: false} {
		if got := proxied.Orphan(ConntrackFlow{Protocol: UDP, OrigDst: addr(vip), ReplySrc: addr(src)}); got != want {
			t.Errorf("behind a proxy, answered by %s: got %v, want %v", src, got, want)
		}
	}

	same := snap(eps(a), vip)
	if s := NewStale(same, same); !s.Empty() {
		t.Error("no change leaves something behind")
	}
	merged := NewStale(same, same)
	merged.Merge(NewStale(snap(eps(a), vip), &Snapshot{}))
	if !merged.Orphan(ConntrackFlow{Protocol: UDP, OrigDst: addr(vip), ReplySrc: addr(a)}) {
		t.Error("what an earlier change left behind is forgotten")
	}
}
