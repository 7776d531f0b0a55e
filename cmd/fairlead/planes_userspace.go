package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/sysctl"
	"github.com/fairlead-project/fairlead/userspace"
)

// userspaceEngine is the userspace dataplane with its proxy.
type userspaceEngine struct {
	cfg     engineConfig
	tools   iptables.Tools
	run     xt.Runner
	kernel  *notedKernel
	linux   userspace.Watcher
	missing [service.NumFamilies]error
	proxy   *userspace.Proxy     // once open
	plane   *userspace.Dataplane // once open
}

// userspaceTables are the tables that the rules of userspace mode are in.
func userspaceTables() []xt.Table { return []xt.Table{xt.Mangle, xt.Filter} }

func findUserspace(ctx context.Context, c engineConfig) (engine, error) {
	tools, err := c.detect(ctx)
	if err != nil {
		return nil, err
	}
	k, err := kernel.Open()
	if err != nil {
		return nil, fmt.Errorf("open netlink sockets: %w", err)
	}
	cfg := tools.Config()
	cfg.Tables = userspaceTables()
	run, err := c.writer(ctx, tools, cfg)
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	noted := &notedKernel{Kernel: k, counted: func(int) {}}
	e := &userspaceEngine{cfg: c, tools: tools, run: run, kernel: noted, linux: k, missing: missingFamilies(tools)}
	if e.missing[service.IPv4] == nil {
		e.missing[service.IPv4] = validMark(c.Root)
	}
	for f, err := range e.missing {
		if err == nil {
			e.missing[f] = userspace.Probe(ctx, k, e.run, service.Family(f))
		}
	}
	return e, nil
}

// validMark refuses a node where the source of a packet is looked up with its mark:
// ours says that everything is for the node, so every source would look like one of
// its own (fib_validate_source in net/ipv4/fib_frontend.c).
func validMark(root string) error {
	const name = "/proc/sys/net/ipv4/conf/all/src_valid_mark"
	if v, err := sysctl.Read(root, name); err == nil && v != "0" {
		return fmt.Errorf("%s is %s, and has to be 0 in userspace mode", name, v)
	}
	return nil
}

func (e *userspaceEngine) unusable() [service.NumFamilies]error { return e.missing }

func (e *userspaceEngine) sysctls(*service.Node, []service.Family) []sysctl.Setting {
	return []sysctl.Setting{sysctl.ReusePorts()}
}

func (e *userspaceEngine) open(families []service.Family) (service.Dataplane, error) {
	cfg := e.cfg.Config.Userspace
	cfg.Families, cfg.Log = families, e.cfg.Log
	cfg.Follows = e.cfg.follows(modeUserspace, e.tools.Variant)
	var err error
	if e.proxy, err = userspace.NewProxy(cfg); err != nil {
		return nil, fmt.Errorf("%w (see --userspace-port)", err)
	}
	if e.plane, err = userspace.New(cfg.Config, e.kernel, e.run, e.proxy); err != nil {
		return nil, errors.Join(err, e.proxy.Close())
	}
	userspace.NewMetrics(e.cfg.Registry, e.proxy.Counts)
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcessors)
	return e.plane, nil
}

// spareProcessors are what Go's scheduler has besides one for each worker of the proxy,
// which has been made by then. As long as one is idle, a worker that waits in epoll keeps
// its own for 10 ms (runtime.retake in Go 1.26). Otherwise it loses it after 20 us, and
// while that happens a thread wakes every 20 us to look: a tenth of the processor time of
// short connections. The second is for whatever else has to be done.
const spareProcessors = 2

// relief comes after open.
func (e *userspaceEngine) relief() relief { return e.proxy }

// watch runs the proxy, and reports changes of routing rules and routes.
func (e *userspaceEngine) watch(ctx context.Context, audit func()) error {
	watched := make(chan error, 1)
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		watched <- userspace.Watch(inner, e.linux, func() {
			if !e.kernel.changing() {
				audit()
			}
		})
	}()
	err := e.proxy.Run(ctx)
	cancel()
	return errors.Join(err, <-watched)
}
