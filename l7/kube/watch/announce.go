package watch

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/service"
	servicekube "github.com/fairlead-project/fairlead/service/kube"
	servicewatch "github.com/fairlead-project/fairlead/service/kube/watch"
)

// An Announcer logs problems when they appear, and makes Events of them while this
// process leads. Every process finds the same problems, so one that begins to lead
// announces those it has known for long too: the names of Events make sure that what has
// been said lately is not said again. Its methods may be called from any goroutine, and
// do not block.
type Announcer struct {
	client kubernetes.Interface // nil: there is no API server
	node   string
	log    *slog.Logger

	mu       sync.Mutex
	known    map[service.Object]map[string][]service.Problem // by who says so
	recorder *servicewatch.Recorder                          // nil unless we lead
}

// NewAnnouncer returns an Announcer that writes Events in the name of the given node. A
// nil client is for want of an API server: problems are only logged.
func NewAnnouncer(client kubernetes.Interface, node string, log *slog.Logger) *Announcer {
	return &Announcer{client: client, node: node, log: log, known: make(map[service.Object]map[string][]service.Problem)}
}

// From returns what takes note of the problems that one source finds with single
// objects: each time all that the object has now. Sources do not disturb each other.
func (a *Announcer) From(source string) servicekube.ReportFunc {
	return func(object service.Object, problems []service.Problem) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.set(source, object, problems)
	}
}

// All takes note of every problem that one source finds, at once. Those of other
// objects that it has reported before are over.
func (a *Announcer) All(source string, problems []service.Problem) {
	byObject := make(map[service.Object][]service.Problem)
	for _, p := range problems {
		key := p.Object
		key.UID = ""
		byObject[key] = append(byObject[key], p)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for object, bySource := range a.known {
		if len(bySource[source]) > 0 && byObject[object] == nil {
			a.set(source, object, nil)
		}
	}
	for object, list := range byObject {
		a.set(source, object, list)
	}
}

// set is called with mu held.
func (a *Announcer) set(source string, object service.Object, problems []service.Problem) {
	bySource := a.known[object]
	old := bySource[source]
	if slices.Equal(old, problems) {
		return
	}
	for _, p := range problems {
		if !slices.Contains(old, p) {
			a.log.Warn("problem", "reason", p.Reason, "problem", p.String())
		}
	}
	if len(problems) > 0 {
		if bySource == nil {
			bySource = make(map[string][]service.Problem)
			a.known[object] = bySource
		}
		bySource[source] = slices.Clone(problems)
	} else if delete(bySource, source); len(bySource) == 0 {
		delete(a.known, object)
	}
	a.announce(object)
}

// announce is called with mu held.
func (a *Announcer) announce(object service.Object) {
	if a.recorder == nil {
		return
	}
	var all []service.Problem
	for _, list := range a.known[object] {
		all = append(all, list...)
	}
	a.recorder.Report(object, all)
}

// Known returns all problems there are, in no order.
func (a *Announcer) Known() []service.Problem {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []service.Problem
	for _, bySource := range a.known {
		for _, list := range bySource {
			out = append(out, list...)
		}
	}
	return out
}

// Lead writes Events until ctx is done. It is a task of a [Leadership].
func (a *Announcer) Lead(ctx context.Context) {
	if a.client == nil {
		return
	}
	recorder := servicewatch.NewRecorder(a.client, a.node, a.log)
	a.mu.Lock()
	a.recorder = recorder
	for object := range a.known {
		a.announce(object)
	}
	a.mu.Unlock()
	recorder.Run(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recorder = nil
}
