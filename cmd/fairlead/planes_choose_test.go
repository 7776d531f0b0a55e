package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

// TestParseModes is about lists of modes.
func TestParseModes(t *testing.T) {
	for _, c := range []struct{ list, want, err string }{
		{"", "iptables", ""},
		{"ipvs", "ipvs", ""},
		{"ipvs,iptables,userspace", "ipvs iptables userspace", ""},
		{" ipvs , iptables", "ipvs iptables", ""},
		{"ipvs,ipvs", "ipvs", ""},
		{"nftables,iptables", "iptables", ""},
		{"nftables", "", "nftables is a proxy mode of kube-proxy only; here there are: iptables, ipvs, userspace"},
		{"nftables,nftables", "", "nftables is a proxy mode of kube-proxy only"},
		{"ipvs,", "", `"ipvs," has an empty word`},
		{"ipvs,x", "", `unknown proxy mode "x"`},
	} {
		got, err := parseModes(c.list)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("parseModes(%q): error %v, want %q", c.list, err, c.err)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("parseModes(%q) = %q, %v, want %s", c.list, got, err, c.want)
		}
	}
}

// fails returns a findFunc that registers a metric and then finds that something is missing.
func fails(why string) findFunc {
	return func(_ context.Context, c engineConfig) (engine, error) {
		c.Registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "fairlead_choose_test_total", Help: "x"}))
		return nil, errors.New(why)
	}
}

// finds returns a findFunc of an engine that lacks some families.
func finds(missing [service.NumFamilies]error) findFunc {
	return func(_ context.Context, c engineConfig) (engine, error) {
		c.Registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "fairlead_choose_test_total", Help: "x"}))
		return &fakeEngine{cfg: c, kernel: xt.NewFake(), missing: missing}, nil
	}
}

// TestChoose lets modes of a list fail, in each of the ways in which a node can be unable to run one.
func TestChoose(t *testing.T) {
	whole := [service.NumFamilies]error{}
	onlyIPv6 := [service.NumFamilies]error{errors.New("no IPv4 here")}
	for _, c := range []struct {
		name  string
		modes string
		finds map[string]findFunc
		want  string   // the mode, or
		err   []string // what the error names
		why   string
	}{
		{"the first", "ipvs,iptables", map[string]findFunc{modeIPVS: finds(whole), modeIptables: fails("unused")}, modeIPVS, nil, "the first of ipvs, iptables"},
		{
			"the second", "ipvs,iptables", map[string]findFunc{modeIPVS: fails("no ip_vs"), modeIptables: finds(whole)}, modeIptables, nil,
			"the first of ipvs, iptables that this node can run; ipvs: no ip_vs",
		},
		{
			"not the family of the node", "ipvs,iptables,userspace",
			map[string]findFunc{modeIPVS: finds(onlyIPv6), modeIptables: fails("no iptables"), modeUserspace: finds(whole)}, modeUserspace, nil, "no IPv4 here",
		},
		{"none", "ipvs,iptables", map[string]findFunc{modeIPVS: fails("no ip_vs"), modeIptables: fails("no iptables")}, "", []string{
			"none of the modes that --proxy-mode asks for", "ipvs: no ip_vs", "iptables: no iptables",
		}, ""},
		{"a single one never falls back", "ipvs", map[string]findFunc{modeIPVS: fails("no ip_vs"), modeIptables: finds(whole)}, "", []string{"no ip_vs"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			p := testProcess(t, examples, "--proxy-mode="+c.modes)
			p.log = slog.New(slog.NewTextHandler(&log, nil))
			p.reporter = newReporter(p.log, nil)
			cfgs, err := p.flags.configs()
			if err != nil {
				t.Fatal(err)
			}
			p.settle(&loader{flags: p.flags}, cfgs, nil)
			p.settled.finds = c.finds
			eng, state, families, err := p.choose(t.Context(), "n1", c.finds[cfgs[0].Mode])
			if c.want == "" {
				for _, w := range c.err {
					if err == nil || !strings.Contains(err.Error(), w) {
						t.Errorf("error %v, want %q in it", err, w)
					}
				}
				return
			}
			if err != nil || eng == nil || len(families) == 0 {
				t.Fatalf("engine %v, families %v: %v", eng, families, err)
			}
			if p.cfg.Mode != c.want || !strings.Contains(p.why, c.why) {
				t.Errorf("got %s because it is %q, want %s because it is %q", p.cfg.Mode, p.why, c.want, c.why)
			}
			if state.Config.LocalhostPorts != p.cfg.Node.LocalhostPorts {
				t.Error("the node is that of another mode")
			}
			if !strings.Contains(log.String(), "proxy mode chosen") {
				t.Errorf("the log does not say what was chosen: %s", log.String())
			}
		})
	}
}
