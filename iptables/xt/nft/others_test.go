package nft_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/nft"
)

// feed has a tool read text.
func feed(ctx context.Context, name, text string) error {
	cmd := exec.CommandContext(ctx, name, "--noflush")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s of %q: %w: %s", name, text, err, out)
	}
	return nil
}

// pool returns a ruleset with a hook, n chains that it leads to, and the given number
// of rules in each.
func pool(f xt.Family, n, rules int, port uint16) *xt.Ruleset {
	to := netip.MustParseAddr("10.0.0.1")
	if f == xt.IPv6 {
		to = netip.MustParseAddr("fd00::1")
	}
	r := &xt.Ruleset{Family: f, Chains: map[xt.ChainRef][]xt.Rule{}, Hooks: []xt.Hook{
		{Table: xt.NAT, Builtin: "PREROUTING", Chain: "FL-ALL"}, {Table: xt.NAT, Builtin: "OUTPUT", Chain: "FL-ALL"},
	}}
	all := xt.ChainRef{Table: xt.NAT, Name: "FL-ALL"}
	for i := range n {
		name := fmt.Sprintf("FL-POOL-%d", i)
		r.Chains[all] = append(r.Chains[all], xt.Rule{
			Match:  []xt.Match{xt.DPort{Protocol: xt.TCP, Port: uint16(i + 1)}},
			Target: xt.Jump{Chain: name},
		})
		for j := range rules {
			r.Chains[xt.ChainRef{Table: xt.NAT, Name: name}] = append(r.Chains[xt.ChainRef{Table: xt.NAT, Name: name}], xt.Rule{
				Match:  []xt.Match{xt.Proto{Protocol: xt.TCP}, xt.Random{P: 1 / float64(j+1)}},
				Target: xt.DNAT{To: netip.AddrPortFrom(to, port)},
			})
		}
	}
	return r
}

// become has run make the tables what want says.
func become(ctx context.Context, run xt.Runner, want *xt.Ruleset) error {
	have, err := run.Save(ctx, want.Family)
	if err != nil {
		return err
	}
	return run.Restore(ctx, xt.Diff(have, want, nil))
}

// twin returns another thread in the namespace of w.
func (w *world) twin(t *testing.T) *world {
	t.Helper()
	other := newWorld(t)
	ns := inside(t, w, func() (*os.File, error) { return os.Open("/proc/thread-self/ns/net") })
	t.Cleanup(func() { _ = ns.Close() })
	other.do(func() {
		if _, _, e := syscall.RawSyscall(sysSetns, ns.Fd(), syscall.CLONE_NEWNET, 0); e != 0 {
			t.Error(e)
		}
	})
	return other
}

// TestOthersWriteToo has the tools write rules of somebody else all the time, beside
// ours and among them. Neither may lose anything, nor fail.
func TestOthersWriteToo(t *testing.T) {
	ours := newWorld(t)
	run := newRunner(t)
	ctx, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	for i, name := range []string{"iptables-nft-restore", "iptables-nft-restore", "ip6tables-nft-restore"} {
		theirs := ours.twin(t)
		others.Go(func() {
			theirs.do(func() { disturb(ctx, t, name, fmt.Sprintf("THEIRS-%d", i)) })
		})
	}
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		want := pool(xt.IPv4, 5+i%7, 4, uint16(1+i))
		switch i % 5 {
		case 3:
			want.Hooks = want.Hooks[:1]
		case 4:
			want = &xt.Ruleset{Family: xt.IPv4}
		}
		ours.do(func() {
			if err := become(t.Context(), run, want); err != nil {
				t.Errorf("round %d: %v", i, err)
			}
		})
		have := inside(t, ours, func() (*xt.State, error) { return run.Save(t.Context(), xt.IPv4) })
		if got := xt.Diff(have, want, func(string) bool { return true }); !got.Empty() {
			t.Errorf("round %d: not everything is there: %v", i, got)
		}
	}
	stop()
	others.Wait()
	for f, n := range map[xt.Family]int{xt.IPv4: 2, xt.IPv6: 1} {
		text := inside(t, ours, func() (string, error) { return saved(t, f) })
		if got := strings.Count(text, "-A THEIRS-"); got != n*theirRules {
			t.Errorf("%d rules of others are left, want %d:\n%s", got, n*theirRules, text)
		}
		if got := strings.Count(text, "-j THEIRS-"); got != n {
			t.Errorf("%d jumps of others are left, want %d:\n%s", got, n, text)
		}
	}
}

// theirRules is how many rules disturb keeps in its chain.
const theirRules = 20

// disturb writes a chain and a jump to it again and again until ctx ends.
func disturb(ctx context.Context, t *testing.T, tool, chain string) {
	var rules strings.Builder
	for i := range theirRules {
		fmt.Fprintf(&rules, "-A %s -p tcp -m tcp --dport %d -m comment --comment \"one of theirs\" -j RETURN\n", chain, i+1)
	}
	for first := true; first || ctx.Err() == nil; first = false {
		remove := "-D PREROUTING -j " + chain + "\n"
		if first {
			remove = ""
		}
		text := "*nat\n:" + chain + " - [0:0]\n" + remove + rules.String() + "-I PREROUTING -j " + chain + "\nCOMMIT\n"
		if err := feed(context.WithoutCancel(ctx), tool, text); err != nil {
			t.Error(err)
			return
		}
	}
}

// TestSeesWhatTheToolsSee has others meddle with our chains and compares what is seen of
// that with what the tools see.
func TestSeesWhatTheToolsSee(t *testing.T) {
	w := newWorld(t)
	byTool := tool(t)
	run := nft.New(nft.Config{Tool: byTool, Tables: allTables, Log: slog.New(slog.DiscardHandler)})
	want := pool(xt.IPv4, 3, 2, 1)
	w.do(func() {
		if err := become(t.Context(), run, want); err != nil {
			t.Error(err)
		}
	})
	var last [2]*xt.State
	for _, meddle := range append([]string{"*nat\nCOMMIT\n"}, meddlings()...) {
		var now [2]*xt.State
		w.do(func() {
			if err := feed(t.Context(), "iptables-nft-restore", meddle); err != nil {
				t.Error(err)
			}
			for i, r := range []xt.Runner{run, byTool} {
				var err error
				if now[i], err = r.Save(t.Context(), xt.IPv4); err != nil {
					t.Error(err)
				}
			}
		})
		if t.Failed() {
			return
		}
		sums := cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Chains.Sum" }, cmp.Ignore())
		if d := cmp.Diff(now[0], now[1], sums); d != "" {
			t.Errorf("after %q: without the tools (-) and with them (+):\n%s", meddle, d)
		}
		if got, want := changed(last[0], now[0]), changed(last[1], now[1]); !slices.Equal(got, want) {
			t.Errorf("%q: changed the sums of %v, with the tools of %v", meddle, got, want)
		}
		last = now
	}
}

func meddlings() []string {
	var out []string
	for _, line := range []string{
		"-A FL-POOL-0 -j RETURN", "-I FL-POOL-1 1 -s 10.0.0.0/8", "-D FL-POOL-2 1",
		"-R FL-POOL-2 1 -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.0.0.1:1",
		"-R FL-POOL-2 1 -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.0.0.1:2",
		"-R FL-POOL-2 1 -p udp -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.0.0.1:2",
		"-R FL-POOL-2 1 -p udp -m statistic --mode random --probability 0.5 -m comment --comment \"why not\" -j DNAT --to-destination 10.0.0.1:2",
		"-Z", "-F FL-POOL-0", ":FL-NEW - [0:0]", ":FL-POOL-1 - [0:0]", "-X FL-NEW",
		"-A PREROUTING -m comment --comment fairlead -j FL-ALL", "-A PREROUTING -m comment --comment fairleaf -j FL-ALL",
		"-A OUTPUT -j FL-ALL", "-A PREROUTING -p tcp -m comment --comment fairlead -j FL-ALL",
		"-A PREROUTING -m comment --comment fairlead -g FL-ALL", "-D PREROUTING -m comment --comment fairlead -j FL-ALL",
		":OTHER - [0:0]\n-A OTHER -s 10.0.0.0/8 -j FL-POOL-0\n-A OTHER -m comment --comment fairlead -j FL-ALL",
		"-A OTHER -m comment --comment \"a \\\"quoted\\\" word\" -j FL-POOL-1", "-F OTHER", "-F PREROUTING", "-F",
	} {
		out = append(out, "*nat\n"+line+"\nCOMMIT\n")
	}
	return append(out, "*mangle\n:FL-M - [0:0]\n-A FL-M -j MARK --set-xmark 0x1/0x1\n-A PREROUTING -j FL-M\nCOMMIT\n",
		"*raw\n:FL-R - [0:0]\n-A PREROUTING -j FL-R\nCOMMIT\n", "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n")
}

// changed lists the chains that have another sum than before.
func changed(before, now *xt.State) (out []string) {
	if before == nil {
		return nil
	}
	for ref, c := range now.Chains {
		if old, ok := before.Chains[ref]; ok && old.Sum != c.Sum {
			out = append(out, ref.String())
		}
	}
	slices.Sort(out)
	return out
}

// loadEnv has the test binary write many rules, in the namespace that it finds itself in.
const loadEnv = "NFT_TEST_LOAD"

// TestKilled kills a process while it writes many rules, at various times. What is
// there then must not be taken for more than it is: who comes next puts everything in
// force.
func TestKilled(t *testing.T) {
	big := pool(xt.IPv4, 1000, 6, 1)
	if os.Getenv(loadEnv) != "" {
		run := newRunner(t)
		fmt.Println("ready")
		if err := become(t.Context(), run, big); err != nil {
			t.Error(err)
		}
		return
	}
	w, clean := newWorld(t), newWorld(t)
	begin := time.Now()
	want := inside(t, clean, func() ([]string, error) {
		if err := become(t.Context(), newRunner(t), big); err != nil {
			return nil, err
		}
		return dump(xt.IPv4)
	})
	whole := time.Since(begin)
	run := newRunner(t)
	caught := map[string]int{}
	kills := 8
	if testing.Short() {
		kills = 4
	}
	for i := range kills {
		state := inside(t, w, func() (*xt.State, error) {
			if err := killed(t.Context(), whole*time.Duration(i)/time.Duration(kills)); err != nil {
				return nil, err
			}
			return run.Save(t.Context(), xt.IPv4)
		})
		caught[stage(state, big)]++
		for ref, c := range state.Chains {
			if c.Rules != 0 && c.Rules != len(big.Chains[ref]) {
				t.Errorf("kill %d: chain %v has %d rules of %d", i, ref, c.Rules, len(big.Chains[ref]))
			}
		}
		w.do(func() {
			trust := func(string) bool { return true } // as of chains that are named by their contents
			if err := run.Restore(t.Context(), xt.Diff(state, big, trust)); err != nil {
				t.Error(err)
			}
		})
		if got := inside(t, w, func() ([]string, error) { return dump(xt.IPv4) }); !slices.Equal(got, want) {
			t.Errorf("kill %d, and repaired: %d lines, want %d", i, len(got), len(want))
		}
		w.do(func() {
			if err := become(t.Context(), run, &xt.Ruleset{Family: xt.IPv4}); err != nil {
				t.Error(err)
			}
		})
	}
	t.Logf("found: %v", caught)
}

func stage(s *xt.State, whole *xt.Ruleset) string {
	switch {
	case len(s.Chains) == 0:
		return "nothing"
	case xt.Diff(s, whole, func(string) bool { return true }).Empty():
		return "everything"
	}
	return "something"
}

// killed has a process load the rules of TestKilled, and kills it some time after it
// has begun.
func killed(ctx context.Context, after time.Duration) error {
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), loadEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = out.Read(make([]byte, 1))
	time.Sleep(after)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // which says that it was killed
	return err
}
