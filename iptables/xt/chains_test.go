package xt

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLegacyChains compares what the kernel says with what the tool says, of tables with
// chains of everybody.
func TestLegacyChains(t *testing.T) {
	eachVariant(t, func(t *testing.T, e *Exec, variant string) {
		if variant != "legacy" {
			t.Skip("is about the other variant")
		}
		for _, f := range []Family{IPv4, IPv6} {
			if all, err := LegacyChains(t.Context(), f); err != nil || len(all) > 0 {
				t.Errorf("%v, without tables: %v, %v", f, all, err)
			}
			mustRestore(t, e, Diff(nil, everything(f), nil))
			longest := strings.Repeat("x", MaxChainName)
			text := "*raw\n:THEM-IN - [0:0]\n:ERROR - [0:0]\n-A PREROUTING -j THEM-IN\nCOMMIT\n*mangle\n:" + longest + " - [0:0]\n-A " + longest + " -j MARK --set-mark 1\nCOMMIT\n"
			if err := e.restoreText(t.Context(), f, text); err != nil {
				t.Fatal(err)
			}
			got, err := LegacyChains(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			want, err := e.Chains(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			want = slices.DeleteFunc(want, func(ref ChainRef) bool { return isBuiltin(ref.Name) })
			slices.SortFunc(got, ChainRef.compare)
			slices.SortFunc(want, ChainRef.compare)
			if d := cmp.Diff(got, want); d != "" {
				t.Errorf("%v chains (-got +want):\n%s", f, d)
			}
			if !slices.Contains(got, ChainRef{"raw", "ERROR"}) || !slices.Contains(got, ChainRef{Mangle, longest}) {
				t.Errorf("%v chains %v: want those of somebody else among them", f, got)
			}
		}
	})
}

// TestLeavingsByName has the tool asked only where there is a chain of an owner, or where
// the names of chains are not to be had.
func TestLeavingsByName(t *testing.T) {
	eachVariant(t, func(t *testing.T, e *Exec, _ string) {
		if err := e.restoreText(t.Context(), IPv4, "*nat\n:THEM-IN - [0:0]\n-A PREROUTING -j THEM-IN\nCOMMIT\n"); err != nil {
			t.Fatal(err)
		}
		theirChain := ChainRef{NAT, "THEM-IN"}
		for _, c := range []struct {
			name  string
			names []ChainRef
			err   error
			want  []ChainRef
		}{
			{name: "there is one", names: []ChainRef{{NAT, "OTHER"}, theirChain}, want: []ChainRef{theirChain}},
			{name: "there is none", names: []ChainRef{{NAT, "OTHER"}}},
			{name: "nobody knows", err: errors.New("no kernel"), want: []ChainRef{theirChain}},
		} {
			cfg := e.cfg
			cfg.List = func(context.Context, Family) ([]ChainRef, error) { return c.names, c.err }
			got, err := NewExec(cfg).Leavings(t.Context(), IPv4, Owner{Chain: func(ChainRef) bool { return false }}, theirs())
			if err != nil || len(got) != 2 || !got[0].Empty() || got[0].Family != IPv4 {
				t.Fatalf("%s: %v, %v", c.name, got, err)
			}
			if d := cmp.Diff(got[1].Chains, c.want); d != "" {
				t.Errorf("%s: chains (-got +want):\n%s", c.name, d)
			}
		}
	})
}

// TestBlank reads tables without the tool only where nothing in them is ours.
func TestBlank(t *testing.T) {
	eachVariant(t, func(t *testing.T, e *Exec, variant string) {
		cfg := e.cfg
		cfg.List = LegacyChains
		fast := NewExec(cfg)
		if got := fast.blank(t.Context(), IPv4); got != (variant == "legacy") {
			t.Errorf("empty tables are blank: %t", got)
		}
		if d := cmp.Diff(mustSave(t, fast, IPv4), mustSave(t, e, IPv4)); d != "" {
			t.Errorf("empty tables (-got +want):\n%s", d)
		}
		mustRestore(t, e, Diff(nil, everything(IPv4), nil))
		if fast.blank(t.Context(), IPv4) {
			t.Error("tables with rules of ours are blank")
		}
		if d := cmp.Diff(mustSave(t, fast, IPv4), mustSave(t, e, IPv4)); d != "" {
			t.Errorf("tables with rules of ours (-got +want):\n%s", d)
		}
	})
}

// TestWalkEntries has no bytes lead it astray.
func TestWalkEntries(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, b := range [][]byte{make([]byte, 1), make([]byte, 176), slices.Repeat([]byte{255}, 400)} {
			if err := walkEntries(f, b, func(string) {}); !errors.Is(err, errMalformed) {
				t.Errorf("%v, %d bytes: %v, want %v", f, len(b), err, errMalformed)
			}
		}
		if err := walkEntries(f, nil, func(string) {}); err != nil {
			t.Errorf("%v, nothing: %v", f, err)
		}
	}
}
