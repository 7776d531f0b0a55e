package main

import (
	"context"
	"errors"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/sysctl"
	"github.com/fairlead-project/fairlead/userspace"
	"github.com/fairlead-project/fairlead/userspace/localhost"
)

// A localhostProxy answers node ports at localhost, beside the dataplane of the mode.
// A nil one is none.
type localhostProxy struct {
	plane *localhost.Dataplane
	proxy *userspace.Proxy
}

// openLocalhost returns nil if none is asked for.
func (p *process) openLocalhost(families []service.Family) (*localhostProxy, error) {
	if p.flags.LocalhostProxy && !p.cfg.LocalhostProxy {
		p.log.Warn("--localhost-nodeports-proxy does nothing in this mode, whose proxy answers at localhost by itself",
			"mode", p.cfg.Mode, "see", "--iptables-localhost-nodeports")
	}
	if !p.cfg.LocalhostProxy {
		return nil, nil //nolint:nilnil // none is what was asked for
	}
	const opened = "/proc/sys/net/ipv4/conf/all/route_localnet"
	if v, err := sysctl.Read(p.root, opened); err == nil && v != "0" {
		p.log.Warn("neighbours can reach what listens at 127.0.0.1; with --localhost-nodeports-proxy fairlead does not need that, and leaves it to you to set it back",
			"parameter", opened, "value", v)
	}
	cfg := p.cfg.Userspace
	cfg.Log = p.log
	proxy, err := userspace.NewPlainProxy(cfg)
	if err != nil {
		return nil, err
	}
	plane, err := localhost.New(localhost.Config{Families: families, Log: p.log}, proxy)
	if err != nil {
		return nil, errors.Join(err, proxy.Close())
	}
	userspace.NewMetrics(p.reg, proxy.Counts)
	return &localhostProxy{plane, proxy}, nil
}

// planes returns the dataplane, if any.
func (l *localhostProxy) planes() []service.Dataplane {
	if l == nil {
		return nil
	}
	return []service.Dataplane{l.plane}
}

// run serves until ctx is done.
func (l *localhostProxy) run(ctx context.Context) error {
	if l == nil {
		return nil
	}
	return l.proxy.Run(ctx)
}

// close is for one that is not run.
func (l *localhostProxy) close() error {
	if l == nil {
		return nil
	}
	return l.proxy.Close()
}
