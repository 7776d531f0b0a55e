package ipvs_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// lessKernel is a kernel without sets of one type.
type lessKernel struct {
	*kernel.Fake
	lacks kernel.SetType
}

func (k lessKernel) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	if n, ok := ops[0].(kernel.NewSet); ok && n.Set.Type == k.lacks {
		return []*kernel.OpError{{Op: ops[0], Err: errors.New("no such type")}}, nil
	}
	return k.Fake.Apply(ctx, ops)
}

// lessTools are tools that refuse rules with a word in them.
type lessTools struct {
	*xt.Fake
	lacks string
}

func (r lessTools) Restore(ctx context.Context, in *xt.Restore) error {
	text, err := in.AppendText(nil)
	if err != nil {
		return err
	}
	if strings.Contains(string(text), r.lacks) {
		return &xt.RestoreError{Family: in.Family, Stderr: "no " + r.lacks}
	}
	return r.Fake.Restore(ctx, in)
}

func TestProbe(t *testing.T) {
	for _, c := range []struct {
		name  string
		sets  kernel.SetType // that the kernel lacks
		rules string         // that the tools refuse
		want  []string       // of the error, each once; nil for none
	}{
		{"everything is there", "-", "-nothing-", nil},
		{"no xt_set", "-", "--match-set", []string{"set is not possible", "xt_set", "no --match-set"}},
		{"no NETMAP", "-", "NETMAP", []string{"NETMAP is not possible", "xt_NETMAP"}},
		{"no mangle", "-", "*mangle", []string{"mark is not possible", "conntrack is not possible"}},
		{"nothing", "-", "COMMIT", []string{"add rules"}},
		{"no sets of networks", kernel.HashIPPortNet, "-nothing-", []string{"hash:ip,port,net", "ip_set_hash_ipportnet"}},
		{"no sets of ports", kernel.BitmapPort, "-nothing-", []string{"bitmap:port", "ip_set_bitmap_port"}},
	} {
		for _, f := range []service.Family{service.IPv4, service.IPv6} {
			t.Run(c.name+" "+f.String(), func(t *testing.T) {
				k := kernel.NewFake()
				tools := xt.NewFake()
				tools.HasSet = func(set string) bool {
					_, err := k.Elements(t.Context(), set)
					return err == nil
				}
				err := ipvs.Probe(t.Context(), lessKernel{k, c.sets}, lessTools{tools, c.rules}, f, true)
				if (err == nil) != (c.want == nil) {
					t.Fatalf("error %v, want %q", err, c.want)
				}
				for _, w := range c.want {
					if strings.Count(err.Error(), w) < 1 || !strings.Contains(err.Error(), f.String()) {
						t.Errorf("error %v, want %q and %s", err, w, f)
					}
				}
				if sets, err := k.Sets(t.Context(), ""); len(sets) > 0 || err != nil {
					t.Errorf("sets left behind: %v, %v", sets, err)
				}
				if dump := tools.Dump(); strings.Contains(dump, "FL-") {
					t.Errorf("chains left behind:\n%s", dump)
				}
			})
		}
	}
}

func TestOwned(t *testing.T) {
	k := kernel.NewFake()
	if got, err := ipvs.Owned(t.Context(), k); len(got) > 0 || err != nil {
		t.Errorf("Owned on a fresh node = %v, %v, want none", got, err)
	}
	v4, v6 := key("tcp 10.96.0.1:443"), key("udp [fd00:10:96::a]:53")
	for name, key := range map[string]kernel.ServerKey{"FL4-OWN": v4, "FL6-OWN": v6} {
		set := kernel.Set{Name: name, Type: kernel.HashIPPort, Family: service.FamilyOf(key.Addr.Addr()), MaxElem: 64}
		elem := kernel.Element{Addr: key.Addr.Addr(), Port: key.Addr.Port(), Protocol: key.Protocol}
		if err := k.Tamper(kernel.NewSet{Set: set}, kernel.AddElem{Set: name, Type: set.Type, Elem: elem}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ipvs.Owned(t.Context(), k)
	if len(got) != 2 || !got[v4] || !got[v6] || err != nil {
		t.Errorf("Owned = %v, %v, want %s and %s", got, err, v4, v6)
	}
	k.Fail(1, 1)
	if _, err := ipvs.Owned(t.Context(), k); !errors.Is(err, kernel.ErrInjected) {
		t.Errorf("Owned with a kernel that fails: %v, want its error", err)
	}
}

// key reads what ServerKey.String prints.
func key(text string) kernel.ServerKey {
	proto, addr, _ := strings.Cut(text, " ")
	p := map[string]service.Protocol{"tcp": service.TCP, "udp": service.UDP, "sctp": service.SCTP}[proto]
	return kernel.ServerKey{Addr: netip.MustParseAddrPort(addr), Protocol: p}
}
