package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/conntrack"
	"github.com/fairlead-project/fairlead/service/kube"
	"github.com/fairlead-project/fairlead/takeover"
	"github.com/fairlead-project/fairlead/userspace"
)

// variant implements [successor].
func (e *iptablesEngine) variant() iptables.Variant { return e.tools.Variant }

// variant implements [successor].
func (e *ipvsEngine) variant() iptables.Variant { return e.tools.Variant }

// variant implements [successor].
func (e *userspaceEngine) variant() iptables.Variant { return e.tools.Variant }

// A successor is an engine that can follow another proxy.
type successor interface{ variant() iptables.Variant }

// takeOver returns plane such that its first Sync is followed by the removal of what
// others have left, and the task that does that. The task is nil if nobody wants it.
func (p *process) takeOver(plane service.Dataplane, eng engine, state nodeState) (service.Dataplane, func(context.Context) error, error) {
	next, ok := eng.(successor)
	if !p.takesOver || !ok {
		return plane, nil, nil
	}
	k, err := kernel.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("open netlink sockets: %w", err)
	}
	flows, err := conntrack.Open()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open the connection-tracking table: %w", err), k.Close())
	}
	taker := takeover.New(takeover.Config{
		Mode: takeover.Mode(p.cfg.Mode), Tools: takeoverTools(p.cfg.Mode, next.variant()), NFT: &takeover.Tables{},
		Kernel: &loadedKernel{Kernel: k, root: p.root}, Flows: flows,
		IPVS: p.leftIPVS(), Userspace: leftUserspace(p.log),
		Local: localAddresses, Sockets: takeover.SocketAddrs, Rehome: takeover.Rehome, Source: state.Addrs.Outward,
		Log: p.log, Metrics: takeover.NewMetrics(p.reg),
	})
	wrapped := takeover.NewPlane(plane, taker)
	return wrapped, func(ctx context.Context) error {
		err := wrapped.Run(ctx, func(reason, message string, trouble bool) {
			p.reporter.tookOver(state.Name, state.Info, reason, message, trouble)
		})
		return errors.Join(err, flows.Close(), k.Close())
	}, nil
}

// follows returns what tells a dataplane whether somebody else serves. If that cannot be found out, somebody may: then a
// node port is unmasqueraded for a moment at worst, and no connection of theirs is lost.
func (c engineConfig) follows(mode string, inUse iptables.Variant) func(context.Context) bool {
	return func(ctx context.Context) bool {
		yes, err := takeover.Precedes(ctx, takeover.Mode(mode), takeoverTools(mode, inUse), &takeover.Tables{})
		if err != nil {
			c.Log.Warn("cannot tell whether another proxy serves on this node; taking it that one does", "err", err)
		}
		return yes || err != nil
	}
}

// tookOver makes an Event of the Node.
func (r *reporter) tookOver(name string, info kube.NodeInfo, reason, message string, trouble bool) {
	switch {
	case r.events == nil:
	case trouble:
		r.node(name, info, reason, message)
	default:
		r.events.Announce(service.Object{Kind: "Node", Name: service.Name{Name: name}, UID: info.UID}, reason, message)
	}
}

// takeoverTools are all tools that are installed. Of those that the dataplane of a
// mode writes with, it is told which tables have its rules.
func takeoverTools(mode string, inUse iptables.Variant) []takeover.Tool {
	tables := map[string][]xt.Table{
		modeIptables: {xt.NAT, xt.Filter}, modeIPVS: ipvsTables(), modeUserspace: userspaceTables(),
	}
	installed, err := everyTool()
	if err != nil {
		return nil // the engine has found some, or we would not be here
	}
	var out []takeover.Tool
	for _, t := range installed {
		tool := takeover.Tool{Name: t.paths.Save, Family: t.family, Run: xt.NewExec(t.config())}
		if t.variant == inUse {
			tool.InUse, tool.Tables = true, tables[mode]
		}
		out = append(out, tool)
	}
	return out
}

// leftIPVS is what ipvs mode was configured with, as far as its remains depend on that.
func (p *process) leftIPVS() ipvs.Config {
	cfg := ipvsConfig{Scheduler: "rr"}.plan(p.flags.MasqueradeBit)
	if p.cfg.Mode == modeIPVS {
		cfg.VIPMode = p.cfg.IPVS.VIPMode
	}
	cfg.Log = p.log
	for _, s := range p.flags.IPVS.ExcludeCIDRs {
		if n, err := parseCIDR(s); err == nil { // else it was said already, where it matters
			cfg.Exclude = append(cfg.Exclude, n)
		}
	}
	return cfg
}

func leftUserspace(log *slog.Logger) userspace.Config {
	cfg := userspace.DefaultConfig()
	cfg.Log = log
	return cfg
}

// localAddresses returns the addresses of the node, without virtual ones.
func localAddresses() ([]netip.Addr, error) {
	addrs, err := readAddrs()
	if err != nil {
		return nil, err
	}
	return slices.Clone(addrs.All), nil
}
