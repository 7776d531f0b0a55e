package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/nft"
)

// A Variant is one of the two sets of iptables tools. They fill different
// tables in the kernel, and a packet passes both.
type Variant string

// The variants. Auto is only for asking.
const (
	Auto   Variant = "auto"
	NFT    Variant = "nft"
	Legacy Variant = "legacy"
)

// minVersion is the oldest iptables we work with: the first whose restore takes
// -w, so that it waits for the lock, and whose MASQUERADE has --random-fully.
const minVersion = "1.6.2"

// Tools is what Detect found.
type Tools struct {
	Variant     Variant // NFT or Legacy
	Version     string  // such as "1.8.9"
	Reason      string  // why this variant was taken
	IPv4, IPv6  xt.Paths
	RandomFully bool // MASQUERADE knows --random-fully

	// Families lists those for which both the tools and the kernel are there,
	// in order, never empty. Missing says what the others lack.
	Families []xt.Family
	Missing  map[xt.Family]error
}

// Config returns the configuration of an [xt.Exec] for t.
func (t Tools) Config() xt.ExecConfig {
	cfg := xt.ExecConfig{IPv4: t.IPv4, IPv6: t.IPv6, Legacy: t.Variant == Legacy, List: nft.Chains}
	if cfg.Legacy {
		cfg.List = xt.LegacyChains
	}
	return cfg
}

// families is both, in order.
func families() []xt.Family { return []xt.Family{xt.IPv4, xt.IPv6} }

// A candidate is one variant on this machine.
type candidate struct {
	Tools
	unusable error // why it cannot be taken; nil if it can
	plain    bool  // it is what the name iptables stands for
	hinted   bool  // the kubelet uses it
	own      bool  // chains of ours are in it
	rules    int   // of anybody; not counted if the others decide
}

// Detect finds the iptables tools to use. Auto takes the variant the kubelet
// left its hint chain in, since rules of the two variants do not see each
// other; failing that, the one that holds chains of ours, then the one that
// holds more rules, then whatever plain iptables is. The error says which tool
// or which part of the kernel is missing, or how old the tools may be.
func Detect(ctx context.Context, want Variant) (Tools, error) {
	var wanted []Variant
	switch want {
	case NFT, Legacy:
		wanted = []Variant{want}
	case Auto, "":
		wanted = []Variant{NFT, Legacy}
	default:
		return Tools{}, fmt.Errorf("iptables variant %q is not one of auto, nft and legacy", want)
	}
	var usable []*candidate
	var errs []error
	for _, v := range wanted {
		c := locate(ctx, v)
		if c.unusable == nil && len(wanted) > 1 {
			c.survey(ctx)
		}
		if c.unusable != nil {
			errs = append(errs, fmt.Errorf("iptables variant %s: %w", v, c.unusable))
			continue
		}
		usable = append(usable, c)
	}
	if len(usable) == 2 && usable[0].hinted == usable[1].hinted && usable[0].own == usable[1].own {
		usable[0].count(ctx)
		usable[1].count(ctx)
	}
	for _, c := range ranked(usable) {
		if err := c.checkKernel(ctx); err != nil {
			errs = append(errs, fmt.Errorf("iptables variant %s: %w", c.Variant, err))
			continue
		}
		return c.Tools, nil
	}
	return Tools{}, errors.Join(errs...)
}

// ranked puts the best first and notes why.
func ranked(cs []*candidate) []*candidate {
	if len(cs) == 1 {
		cs[0].Reason = "no other variant is wanted or installed"
	}
	if len(cs) < 2 {
		return cs
	}
	a, b := cs[0], cs[1]
	count := func(yes bool) int {
		if yes {
			return 1
		}
		return 0
	}
	for _, why := range []struct {
		reason string
		a, b   int
	}{
		{"the kubelet's hint chain is in it", count(a.hinted), count(b.hinted)},
		{"chains of ours are in it", count(a.own), count(b.own)},
		{"it holds more rules", a.rules, b.rules},
		{"plain iptables is it", count(a.plain), count(b.plain)},
	} {
		if why.a < why.b {
			a, b = b, a
		}
		if why.a != why.b {
			a.Reason, b.Reason = why.reason, "the other variant cannot be used"
			return []*candidate{a, b}
		}
	}
	a.Reason, b.Reason = "nothing speaks for the other", "the other variant cannot be used"
	return cs
}

// locate finds the tools of v, under their own names or the plain one.
func locate(ctx context.Context, v Variant) *candidate {
	c := &candidate{Tools: Tools{Variant: v, Missing: map[xt.Family]error{}}}
	c.plain = plainIs(ctx, v)
	for _, f := range families() {
		paths, err := xt.Locate(f, string(v))
		if err != nil && c.plain {
			if plain, plainErr := xt.Locate(f, ""); plainErr == nil {
				paths, err = plain, nil
			}
		}
		if err != nil {
			c.Missing[f] = err
			continue
		}
		if f == xt.IPv4 {
			c.IPv4 = paths
		} else {
			c.IPv6 = paths
		}
		c.Families = append(c.Families, f)
	}
	if len(c.Families) == 0 {
		c.unusable = errors.Join(c.Missing[xt.IPv4], c.Missing[xt.IPv6])
		return c
	}
	c.unusable = c.readVersion()
	return c
}

// plainIs reports whether the plain tools are of variant v. Before 1.8 they did
// not say, and were what is called legacy now.
func plainIs(ctx context.Context, v Variant) bool {
	for _, f := range families() {
		paths, err := xt.Locate(f, "")
		if err != nil {
			continue
		}
		version, err := xt.NewExec(xt.ExecConfig{IPv4: paths, IPv6: paths}).Version(ctx, f)
		if err == nil {
			return strings.Contains(version, "nf_tables") == (v == NFT)
		}
	}
	return false
}

// readVersion asks one of the tools; those of the other family come from the
// same package.
func (t *Tools) readVersion() error {
	path, proto := t.IPv4.Iptables, goiptables.ProtocolIPv4
	if path == "" {
		path, proto = t.IPv6.Iptables, goiptables.ProtocolIPv6
	}
	ipt, err := goiptables.New(goiptables.Path(path), goiptables.IPFamily(proto))
	if err != nil {
		return fmt.Errorf("%s --version: %w", path, err)
	}
	major, minor, patch := ipt.GetIptablesVersion()
	t.Version = fmt.Sprintf("%d.%d.%d", major, minor, patch)
	t.RandomFully = ipt.HasRandomFully()
	if cmp.Or(cmp.Compare(major, 1), cmp.Compare(minor, 6), cmp.Compare(patch, 2)) < 0 {
		return fmt.Errorf("%s is version %s, and at least %s is needed", path, t.Version, minVersion)
	}
	return nil
}

// survey looks for signs that c is in use. A family that cannot be read says
// nothing.
func (c *candidate) survey(ctx context.Context) {
	run := xt.NewExec(c.Config())
	var errs []error
	for _, f := range c.Families {
		all, err := run.Chains(ctx, f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, ref := range all {
			c.hinted = c.hinted || ref.Table == xt.Mangle && (ref.Name == "KUBE-IPTABLES-HINT" || ref.Name == "KUBE-KUBELET-CANARY")
			c.own = c.own || strings.HasPrefix(ref.Name, xt.Prefix)
		}
	}
	if len(errs) == len(c.Families) {
		c.unusable = errors.Join(errs...)
	}
}

// count counts rules. A family that cannot be read has none.
func (c *candidate) count(ctx context.Context) {
	run := xt.NewExec(c.Config())
	for _, f := range c.Families {
		if s, err := run.Survey(ctx, f); err == nil {
			c.rules += s.Rules
		}
	}
}

// checkKernel drops the families whose tables the kernel does not have.
func (c *candidate) checkKernel(ctx context.Context) error {
	run := xt.NewExec(c.Config())
	var have []xt.Family
	var errs []error
	for _, f := range c.Families {
		err := checkTables(ctx, run, c.Variant, f)
		if err != nil {
			c.Missing[f] = err
			errs = append(errs, err)
			continue
		}
		have = append(have, f)
	}
	c.Families = have
	if len(have) == 0 {
		return errors.Join(errs...)
	}
	return nil
}

func checkTables(ctx context.Context, run xt.Runner, v Variant, f xt.Family) error {
	for _, table := range []xt.Table{xt.NAT, xt.Filter} {
		// Whether the chain exists is of no interest, only whether one can ask.
		_, err := run.Probe(ctx, f, nil, map[xt.ChainRef]int{{Table: table, Name: probeChain}: 0})
		if err == nil {
			continue
		}
		modules := "nf_tables/nft_compat/nft_chain_nat"
		switch {
		case v == Legacy && f == xt.IPv4:
			modules = "ip_tables/iptable_" + string(table)
		case v == Legacy:
			modules = "ip6_tables/ip6table_" + string(table)
		}
		return fmt.Errorf("%s-%s: table %s: perhaps the kernel lacks %s: %w", command(f), v, table, modules, err)
	}
	return nil
}

func command(f xt.Family) string {
	if f == xt.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// Exec returns the Runner for t. Waiting for the lock of the legacy tools ends
// after lockWait, and onWait, which may be nil, learns of it.
func (t Tools) Exec(lockWait time.Duration, onWait func(time.Duration)) *xt.Exec {
	cfg := t.Config()
	cfg.LockWait, cfg.OnWait = lockWait, onWait
	return xt.NewExec(cfg)
}
