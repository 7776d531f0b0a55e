package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// choose finds the first of the modes that were asked for which this node can run: the tools and the kernel offer what
// it needs, for the family of the node's own address. With one mode there is nothing to choose, and its error is the
// error. p.cfg is that of the mode afterwards.
func (p *process) choose(ctx context.Context, name string, find findFunc) (engine, nodeState, []service.Family, error) {
	cfgs := []config{p.cfg}
	if p.settled != nil {
		cfgs = p.settled.cfgs
	}
	var refused []error
	var state *nodeState
	for _, cfg := range cfgs {
		if len(cfgs) > 1 {
			find = p.settled.finds[cfg.Mode]
		}
		p.cfg = cfg
		reg := &revocable{Registerer: p.reg}
		eng, err := find(ctx, engineConfig{Flags: p.flags, Config: cfg, Root: p.root, Log: p.log, Registry: reg})
		var families []service.Family
		if err == nil {
			if state, err = p.learn(ctx, name, state); err != nil {
				return nil, nodeState{}, nil, err // in any mode
			}
			if families, err = p.families(*state, eng); err == nil {
				p.chosen(*state, refused)
				return eng, *state, families, nil
			}
		}
		if len(cfgs) == 1 || ctx.Err() != nil {
			return nil, nodeState{}, nil, err
		}
		reg.revoke()
		p.log.Warn("this node cannot run a mode", "mode", cfg.Mode, "err", err)
		refused = append(refused, fmt.Errorf("%s: %w", cfg.Mode, err))
	}
	return nil, nodeState{}, nil, fmt.Errorf("this node can run none of the modes that %s asks for: %w", p.flags.label("proxy-mode"), errors.Join(refused...))
}

// learn returns the state of the node, which is asked for once only, as p.cfg has it.
func (p *process) learn(ctx context.Context, name string, known *nodeState) (*nodeState, error) {
	if known == nil {
		state, err := p.nodeState(ctx, name)
		return &state, err
	}
	known.Config = p.cfg.Node
	return known, nil
}

// chosen tells which mode it is, and why, if there was a choice.
func (p *process) chosen(state nodeState, refused []error) {
	if p.settled == nil {
		return
	}
	p.settled.node, p.settled.info = state.Name, state.Info
	if p.pages == nil {
		p.pages = make(map[string]http.Handler)
	}
	p.pages["/configz"] = http.HandlerFunc(p.configz)
	if len(p.settled.cfgs) == 1 {
		return
	}
	var asked []string
	for _, c := range p.settled.cfgs {
		asked = append(asked, c.Mode)
	}
	p.why = "the first of " + strings.Join(asked, ", ")
	if len(refused) > 0 {
		text := strings.ReplaceAll(errors.Join(refused...).Error(), "\n", "; ")
		p.why += " that this node can run; " + text
	}
	p.log.Info("proxy mode chosen", "mode", p.cfg.Mode, "because", p.why)
	p.reporter.chosen(state.Name, state.Info, p.cfg.Mode, p.why)
}

// chosen tells which of several modes this node runs.
func (r *reporter) chosen(name string, info kube.NodeInfo, mode, why string) {
	if r.events == nil {
		return
	}
	r.events.Announce(service.Object{Kind: "Node", Name: service.Name{Name: name}, UID: info.UID},
		"ProxyModeChosen", "Proxy mode "+mode+": "+why)
}

// A revocable is a registry that forgets what was registered through it when that turns out to be for nothing.
type revocable struct {
	prometheus.Registerer
	got []prometheus.Collector
}

// Register implements [prometheus.Registerer].
func (r *revocable) Register(c prometheus.Collector) error {
	err := r.Registerer.Register(c)
	if err == nil {
		r.got = append(r.got, c)
	}
	return err
}

// MustRegister implements [prometheus.Registerer].
func (r *revocable) MustRegister(list ...prometheus.Collector) {
	r.Registerer.MustRegister(list...)
	r.got = append(r.got, list...)
}

func (r *revocable) revoke() {
	for _, c := range r.got {
		r.Unregister(c)
	}
	r.got = nil
}
