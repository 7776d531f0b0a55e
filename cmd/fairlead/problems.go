package main

import (
	"log/slog"
	"slices"
	"sync"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
	"github.com/fairlead-project/fairlead/service/kube"
	"github.com/fairlead-project/fairlead/service/kube/watch"
)

// A reporter logs the problems of single objects when they appear, and passes
// them on as Events if there is an API server. Its methods may be called from
// any goroutine.
type reporter struct {
	log    *slog.Logger
	events *watch.Recorder // nil without an API server

	mu    sync.Mutex
	known map[service.Object][]service.Problem
}

func newReporter(log *slog.Logger, events *watch.Recorder) *reporter {
	return &reporter{log: log, events: events, known: make(map[service.Object][]service.Problem)}
}

// report is a kube.ReportFunc. A folder of manifests logs problems itself, with
// file and line.
func (r *reporter) report(object service.Object, problems []service.Problem) {
	if r.events == nil {
		return
	}
	r.mu.Lock()
	old := r.known[object]
	if len(problems) == 0 {
		delete(r.known, object)
	} else {
		r.known[object] = problems
	}
	r.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(old, p) {
			r.log.Warn("problem", "reason", p.Reason, "problem", p.String())
		}
	}
	r.events.Report(object, problems)
}

// decided takes the problems the loop found while it decided, which it has
// logged. A port that cannot be bound is this node's own trouble; every other
// node finds the rest as well.
func (r *reporter) decided(problems []service.Problem) {
	if r.events == nil {
		return
	}
	var common, local []service.Problem
	for _, p := range problems {
		if p.Reason == control.ReasonHealthPort || p.Reason == control.ReasonNodeDeviation {
			local = append(local, p)
		} else {
			common = append(common, p)
		}
	}
	r.events.Send(common)
	r.events.SendLocal(local)
}

// node tells of trouble with this node.
func (r *reporter) node(name string, info kube.NodeInfo, reason, message string) {
	if r.events == nil {
		return
	}
	r.events.SendLocal([]service.Problem{{
		Object: service.Object{Kind: "Node", Name: service.Name{Name: name}, UID: info.UID},
		Reason: reason, Message: message,
	}})
}

// starting tells that fairlead has begun to serve this node, as kube-proxy does.
func (r *reporter) starting(name string, info kube.NodeInfo) {
	if r.events == nil {
		return
	}
	r.events.Announce(service.Object{Kind: "Node", Name: service.Name{Name: name}, UID: info.UID}, "Starting", "")
}
