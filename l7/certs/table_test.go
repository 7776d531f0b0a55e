package certs

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTableGet(t *testing.T) {
	exact, wild, def := newPair(t, "ecdsa", "a.example"), newPair(t, "ecdsa", "*.example"), newPair(t, "ecdsa", "default")
	names := map[*tls.Certificate]string{
		&exact.Certificate: "exact", &wild.Certificate: "wildcard", &def.Certificate: "default", nil: "none",
	}
	table := NewTable()
	get := func(sni string) string {
		t.Helper()
		c, err := table.Get(&tls.ClientHelloInfo{ServerName: sni})
		if err != nil {
			t.Fatal(err)
		}
		return names[c]
	}
	if got := get("a.example"); got != "none" {
		t.Errorf("a new table has %q, want none", got)
	}
	table.Set(map[string][]*Pair{"A.example.": {exact}, "*.Example": {wild}, "empty.example": nil}, Default{Pairs: []*Pair{def}})
	for sni, want := range map[string]string{
		"a.example": "exact", "A.EXAMPLE": "exact", "a.example.": "exact",
		"b.example": "wildcard", "empty.example": "wildcard", "*.example": "wildcard",
		"x.b.example": "default", "example": "default", ".example": "default", "": "default", "a.exampl": "default",
		"10.0.0.1": "default", "fd00::1": "default", "[fd00::1]": "default",
	} {
		if got := get(sni); got != want {
			t.Errorf("%q gets %s, want %s", sni, got, want)
		}
		if got := table.Has(sni); got != (want != "default") {
			t.Errorf("Has(%q) = %v", sni, got)
		}
	}
	table.SetDefault(Default{Pairs: []*Pair{def}, Reject: true})
	if got := get("x.b.example") + " " + get("a.example"); got != "none exact" {
		t.Errorf("with Reject an unknown and a known name get %s", got)
	}
	table.Update(map[string][]*Pair{"a.example": nil, "new.example": {exact}})
	if got := get("a.example") + " " + get("new.example") + " " + get("c.example"); got != "wildcard exact wildcard" {
		t.Errorf("after an update: %s", got)
	}
	var hosts []string
	for _, h := range table.Snapshot() {
		hosts = append(hosts, h.Host)
	}
	if diff := cmp.Diff(hosts, []string{"", "*.example", "new.example"}); diff != "" {
		t.Errorf("Snapshot (-got +want):\n%s", diff)
	}
}

// TestTableAgainstMap compares a Table that is updated at random with a plain map.
func TestTableAgainstMap(t *testing.T) {
	pairs := []*Pair{newPair(t, "ecdsa", "a"), newPair(t, "ecdsa", "b")}
	table, plain := NewTable(), map[string]*Pair{}
	for i := range 3000 {
		host := fmt.Sprintf("h%d.example", i*7919%500)
		if i%3 == 0 {
			table.Update(map[string][]*Pair{host: nil})
			delete(plain, host)
		} else {
			table.Update(map[string][]*Pair{strings.ToUpper(host): {pairs[i%2]}})
			plain[host] = pairs[i%2]
		}
	}
	got := map[string]*Pair{}
	for _, h := range table.Snapshot()[1:] {
		got[h.Host] = h.Pairs[0]
	}
	if !maps.Equal(got, plain) {
		t.Errorf("the table has %d hosts, want %d", len(got), len(plain))
	}
	for host, p := range plain {
		if c, _ := table.Get(&tls.ClientHelloInfo{ServerName: host}); c != &p.Certificate {
			t.Fatalf("%s has another certificate", host)
		}
	}
}

func TestTwoKinds(t *testing.T) {
	rsa, ec := newPair(t, "rsa", "a.example"), newPair(t, "ecdsa", "a.example")
	table := NewTable()
	table.Set(map[string][]*Pair{"a.example": {rsa, ec, rsa}}, Default{})
	config, _ := ServerConfig(Settings{}, table)
	for _, c := range []struct {
		name   string
		suites []uint16
		want   string
	}{
		{"both", nil, "ECDSA"},
		{"only RSA", []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, "RSA"},
		{"only ECDSA", []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, "ECDSA"},
	} {
		client := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, CipherSuites: c.suites}
		if c.suites != nil {
			client.MaxVersion = tls.VersionTLS12
		}
		state, err := handshake(t, config, client)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := state.PeerCertificates[0].PublicKeyAlgorithm.String(); got != c.want {
			t.Errorf("a client that understands %s gets %s, want %s", c.name, got, c.want)
		}
	}
	if got := len(table.Snapshot()[1].Pairs); got != 2 {
		t.Errorf("the host has %d pairs, want 2: one was given twice", got)
	}
}

func TestTableConcurrency(t *testing.T) {
	pairs := []*Pair{newPair(t, "ecdsa", "a.example"), newPair(t, "ecdsa", "a.example")}
	table := NewTable()
	table.Update(map[string][]*Pair{"a.example": pairs[:1]})
	var readers, writers sync.WaitGroup
	for i := range 2 {
		writers.Go(func() {
			for n := range 500 {
				table.Update(map[string][]*Pair{"a.example": {pairs[n%2]}, fmt.Sprintf("%d-%d.example", i, n): {pairs[0]}})
			}
		})
		readers.Go(func() {
			for range 5000 {
				if c, _ := table.Get(&tls.ClientHelloInfo{ServerName: "a.example"}); c == nil {
					t.Error("the certificate was gone for a moment")
					return
				}
			}
		})
	}
	writers.Wait()
	readers.Wait()
	if got := len(table.Snapshot()); got != 1002 {
		t.Errorf("%d hosts after concurrent updates, want 1002 with the default", got)
	}
}

func BenchmarkTable(b *testing.B) {
	p := newPair(b, "ecdsa", "a")
	hosts := map[string][]*Pair{}
	for i := range 10_000 {
		hosts[fmt.Sprintf("host-%d.example.com", i)] = []*Pair{p}
	}
	table := NewTable()
	table.Set(hosts, Default{Pairs: []*Pair{p}})
	keys := slices.Sorted(maps.Keys(hosts))
	b.Run("get", func(b *testing.B) {
		hello := &tls.ClientHelloInfo{ServerName: keys[77]}
		b.ReportAllocs()
		for b.Loop() {
			if c, _ := table.Get(hello); c == nil {
				b.Fatal("none")
			}
		}
	})
	b.Run("update", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			table.Update(map[string][]*Pair{keys[i%len(keys)]: {p}})
		}
	})
}
