package iptables

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	goiptables "github.com/coreos/go-iptables/iptables"
	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// enterNamespace gives the rest of the test, and the tools it starts, a network
// namespace and an xtables lock of their own. The thread is not given back, so
// it dies with the test's goroutine.
func enterNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "xtables.lock"))
}

func needVariant(t *testing.T, variants ...Variant) {
	t.Helper()
	for _, v := range variants {
		for _, f := range families() {
			if _, err := xt.Locate(f, string(v)); err != nil {
				t.Skipf("the tools are not installed: %v", err)
			}
		}
	}
}

func mustDetect(t *testing.T, want Variant) Tools {
	t.Helper()
	tools, err := Detect(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	return tools
}

// TestDetectReal checks each reason to prefer a variant, the strongest last.
func TestDetectReal(t *testing.T) {
	needVariant(t, NFT, Legacy)
	enterNamespace(t)

	empty := mustDetect(t, Auto)
	if plain := plainIs(t.Context(), empty.Variant); !plain || empty.Reason != "plain iptables is it" {
		t.Errorf("with no rules: got %s because %s", empty.Variant, empty.Reason)
	}
	other := map[Variant]Variant{NFT: Legacy, Legacy: NFT}
	v := empty.Variant
	check := func(want Variant, reason string) {
		t.Helper()
		got := mustDetect(t, Auto)
		if got.Variant != want || got.Reason != reason {
			t.Errorf("got %s because %s\nwant %s because %s", got.Variant, got.Reason, want, reason)
		}
	}
	add := func(v Variant, table, chain string, rule ...string) {
		t.Helper()
		ipt, err := goiptables.New(goiptables.Path("iptables-"+string(v)), goiptables.Timeout(5))
		if err == nil && len(rule) == 0 {
			err = ipt.NewChain(table, chain)
		} else if err == nil {
			err = ipt.Append(table, chain, rule...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	v = other[v]
	add(v, "filter", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
	check(v, "it holds more rules")
	v = other[v]
	add(v, "nat", "FL-X")
	check(v, "chains of ours are in it")
	v = other[v]
	add(v, "mangle", "KUBE-KUBELET-CANARY")
	check(v, "the kubelet's hint chain is in it")
	if got := mustDetect(t, other[v]); got.Variant != other[v] {
		t.Errorf("asked for %s: got %s", other[v], got.Variant)
	}
}

func TestProbeReal(t *testing.T) {
	needVariant(t, NFT, Legacy)
	enterNamespace(t)
	for _, v := range []Variant{NFT, Legacy} {
		tools := mustDetect(t, v)
		run := tools.Exec(0, nil)
		if _, err := tools.Probe(t.Context(), run); err != nil {
			t.Errorf("%s: %v", v, err)
		}
		for _, f := range tools.Families {
			s, err := run.Save(t.Context(), f)
			if err != nil || len(s.Chains) > 0 {
				t.Errorf("%s %v: left behind %v, %v", v, f, s, err)
			}
		}
	}
}

// TestProbeNamesModule takes features away from a kernel.
func TestProbeNamesModule(t *testing.T) {
	tools := Tools{Families: families()}
	fake := &withoutMatch{Fake: xt.NewFake(), lacks: "-m statistic"}
	_, err := tools.Probe(t.Context(), fake)
	if err == nil || strings.Count(err.Error(), "perhaps the kernel lacks") != 2 || !strings.Contains(err.Error(), "xt_statistic") {
		t.Errorf("without statistic: %v", err)
	}
	for lacks, want := range map[string]Support{
		"-m sctp": {BPF: true},
		"-m bpf":  {SCTP: true},
		"-m none": {SCTP: true, BPF: true},
	} {
		fake.lacks = lacks
		support, err := tools.Probe(t.Context(), fake)
		if d := cmp.Diff(support, want); d != "" || err != nil {
			t.Errorf("without %s: %v, %v", lacks, support, err)
		}
	}
	if d := fake.Dump(); d != "" {
		t.Errorf("left behind:\n%s", d)
	}
}

// TestDetectScripted runs tools that only pretend.
func TestDetectScripted(t *testing.T) {
	const says = "#!/bin/sh\ncase $1 in --version) echo 'iptables %';; *) echo 'Cannot initialize: Table does not exist (do you need to insmod?)' >&2; exit 3;; esac\n"
	for _, c := range []struct {
		name    string
		tools   map[string]string // name prefix to version
		want    Variant
		wantErr []string
	}{
		{"nothing installed", nil, Auto, []string{"iptables-nft", "ip6tables-legacy-restore", "not found"}},
		{"old", map[string]string{"iptables": "v1.6.1"}, Auto, []string{"version 1.6.1", "at least 1.6.2"}},
		{"no kernel support", map[string]string{"iptables-legacy": "v1.8.9 (legacy)"}, Legacy,
			[]string{"iptables-legacy: table nat", "ip_tables/iptable_nat", "insmod"}},
		{"one family", map[string]string{"ip6tables-nft": "v1.8.9 (nf_tables)"}, NFT,
			[]string{"ip6tables-nft: table nat", "nft_compat"}},
		{"unknown", nil, "ebtables", []string{`"ebtables"`}},
	} {
		dir := t.TempDir()
		for name, version := range c.tools {
			for _, suffix := range []string{"", "-save", "-restore"} {
				text := strings.ReplaceAll(says, "%", version)
				if err := os.WriteFile(filepath.Join(dir, name+suffix), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Setenv("PATH", dir)
		_, err := Detect(t.Context(), c.want)
		for _, want := range c.wantErr {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v\nlacks %q", c.name, err, want)
			}
		}
	}
}

// withoutMatch is a kernel that refuses rules with some text in them.
type withoutMatch struct {
	*xt.Fake
	lacks string
}

func (w *withoutMatch) Restore(ctx context.Context, r *xt.Restore) error {
	text, err := r.AppendText(nil)
	if err == nil && strings.Contains(string(text), w.lacks) {
		err = errors.New("line 4 failed")
	}
	if err != nil {
		return err
	}
	return w.Fake.Restore(ctx, r)
}
