package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/iptables/xt/nft"
)

// What writes the rules of iptables.
const (
	writerAuto    = "auto"
	writerTool    = "tool"
	writerNetlink = "netlink"
)

// A rulesWriter writes and reads rules of iptables, and can say how.
type rulesWriter struct {
	xt.Runner
	how string
}

// writer returns what writes and reads the rules that tools are for: the kernel itself,
// if what it is given has been found to be what the tools give it, and otherwise the
// tools.
func (c engineConfig) writer(ctx context.Context, tools iptables.Tools, cfg xt.ExecConfig) (xt.Runner, error) {
	byTool := rulesWriter{xt.NewExec(cfg), "rules are written by the tools"}
	if c.Flags.Writer == writerTool {
		return byTool, nil
	}
	direct, err := c.netlink(ctx, tools, cfg, byTool)
	switch {
	case err == nil:
		c.Log.Info("rules are written without the tools, the same to the byte")
		return rulesWriter{direct, "rules are written without the tools, over netlink"}, nil
	case c.Flags.Writer == writerNetlink:
		return nil, fmt.Errorf("--iptables-writer=%s: %w", writerNetlink, err)
	}
	c.Log.Info("rules are written by the tools", "because", err)
	return byTool, nil
}

func (c engineConfig) netlink(ctx context.Context, tools iptables.Tools, cfg xt.ExecConfig, tool xt.Runner) (xt.Runner, error) {
	if tools.Variant != iptables.NFT {
		return nil, errors.New("only the nft variant is written over netlink")
	}
	run := nft.New(nft.Config{Tool: tool, Tables: cfg.Tables, Sets: nft.SetIndex, Log: c.Log})
	for _, f := range tools.Families {
		if err := run.Prove(ctx, f); err != nil {
			return nil, fmt.Errorf("try to write rules without the tools: %w", err)
		}
	}
	return run, nil
}
