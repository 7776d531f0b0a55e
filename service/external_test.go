package service

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExternal(t *testing.T) {
	s := NewStore()
	docs := &Service{
		Name: Name{"shop", "docs"}, ExternalName: "docs.example.com",
		Ports: []ServicePort{{Name: "https", Port: 443, AppProtocol: "https"}},
	}
	s.SetService(docs)
	s.SetService(&Service{Name: Name{"shop", "a"}, ExternalName: "a.example.com"})
	// What a slice says does not matter: a name has no endpoints.
	s.SetSlice(&Slice{Service: docs.Name, Name: "x", Ports: []SlicePort{{Name: "https", Port: 443}}})
	first := s.Snapshot()
	want := []*External{
		{Service: Name{"shop", "a"}, Host: "a.example.com"},
		{Service: docs.Name, Host: "docs.example.com", Ports: []ExternalPort{{Name: "https", Number: 443, AppProtocol: "https"}}},
	}
	if d := cmp.Diff(first.External, want); d != "" {
		t.Errorf("External (-got +want):\n%s", d)
	}
	if first.Ports.Len() != 0 {
		t.Errorf("%d Ports, want none", first.Ports.Len())
	}

	aged := *docs
	aged.UID = "u2" // nothing that counts
	s.SetService(&aged)
	s.SetService(&Service{Name: Name{"shop", "a"}, ExternalName: "b.example.com"})
	second := s.Snapshot()
	if second.External[1] != first.External[1] {
		t.Error("an External that has not changed has another pointer")
	}
	if got := second.External[0].Host; got != "b.example.com" || first.External[0].Host != "a.example.com" {
		t.Errorf("changed host: got %s in the new Snapshot and %s in the old", got, first.External[0].Host)
	}

	s.DeleteService(docs.Name)
	s.SetService(&Service{Name: Name{"shop", "a"}, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Families: []Family{IPv4}})
	if got := s.Snapshot().External; len(got) != 0 {
		t.Errorf("after one is deleted and one has got a cluster IP: %v, want none", got)
	}
}

// TestHeadlessPort follows a headless Service to what L7 makes use of.
func TestHeadlessPort(t *testing.T) {
	s := NewStore()
	s.SetNode(Node{Name: "n1", Zone: "a"})
	db := Name{"shop", "db"}
	set := func(proto string) {
		s.SetService(&Service{
			Name: db, Headless: true, Families: []Family{IPv4},
			Ports: []ServicePort{{Name: "sql", Port: 5432, AppProtocol: proto}},
		})
	}
	set("")
	s.SetSlice(&Slice{
		Service: db, Name: "x", Ports: []SlicePort{{Name: "sql", Port: 15432}},
		Endpoints: []SliceEndpoint{
			NewSliceEndpoint(netip.MustParseAddr("10.244.1.2"), &EndpointState{Ready: true, Serving: true, ForZones: []string{"a"}}),
			NewSliceEndpoint(netip.MustParseAddr("10.244.2.2"), &EndpointState{Ready: true, Serving: true, ForZones: []string{"b"}}),
		},
	})
	first := s.Snapshot()
	if first.Ports.Len() != 1 {
		t.Fatalf("%d Ports, want one", first.Ports.Len())
	}
	p := first.Ports.At(0)
	pool := Pool{{Addr: netip.MustParseAddrPort("10.244.1.2:15432")}}
	if r := p.Internal(); r.Verdict != Forward || !slices.Equal(r.Pool, pool) || p.Number != 5432 || len(p.Frontends) != 0 {
		t.Errorf("got %+v with number %d and frontends %v, want %v, 5432 and none", r, p.Number, p.Frontends, pool)
	}
	if set(""); s.Snapshot().Ports.At(0) != p {
		t.Error("a Port that has not changed has another pointer")
	}
	if set("kubernetes.io/h2c"); s.Snapshot().Ports.At(0).AppProtocol != "kubernetes.io/h2c" {
		t.Error("a change of the protocol is not seen")
	}
}
