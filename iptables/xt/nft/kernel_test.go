package nft_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/nft"
)

// inNamespace has the calling test run in a child process with a network namespace of
// its own; in the child it returns true.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv("NFT_TEST_CHILD") != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "NFT_TEST_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS):
		t.Skipf("this kernel gives us no network namespace: %v", err)
	case err != nil:
		t.Errorf("in a network namespace: %v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("in a network namespace:\n%s", out)
	}
	return false
}

// tool returns the tools of the nft variant.
func tool(t *testing.T) *xt.Exec {
	t.Helper()
	cfg := xt.ExecConfig{Tables: []xt.Table{xt.NAT, xt.Filter, xt.Mangle}}
	for f, p := range map[xt.Family]*xt.Paths{xt.IPv4: &cfg.IPv4, xt.IPv6: &cfg.IPv6} {
		paths, err := xt.Locate(f, "nft")
		if err != nil {
			t.Skip(err)
		}
		*p = paths
	}
	return xt.NewExec(cfg)
}

// A noTool is a tool that must not be needed.
type noTool struct {
	xt.Runner
	t *testing.T
}

func (n noTool) Restore(context.Context, *xt.Restore) error {
	n.t.Helper()
	n.t.Error("the tool was needed")
	return errors.New("no tool")
}

func eachFamily(t *testing.T, f func(t *testing.T, f xt.Family)) {
	t.Helper()
	if !inNamespace(t) {
		return
	}
	for _, family := range []xt.Family{xt.IPv4, xt.IPv6} {
		t.Run(family.String(), func(t *testing.T) { f(t, family) })
	}
}

func TestProve(t *testing.T) {
	eachFamily(t, func(t *testing.T, f xt.Family) {
		r := nft.New(nft.Config{Tool: tool(t), Tables: []xt.Table{xt.NAT, xt.Filter, xt.Mangle}, Log: slog.New(slog.DiscardHandler)})
		if err := r.Prove(t.Context(), f); err != nil {
			t.Error(err)
		}
		s, err := r.Save(t.Context(), f)
		if err != nil || len(s.Chains) > 0 {
			t.Errorf("left behind: %v, %v", s, err)
		}
	})
}
