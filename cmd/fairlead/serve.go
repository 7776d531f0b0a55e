package main

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // what requests to the API server come to

	"github.com/fairlead-project/fairlead/cmd/fairlead/gates"
	"github.com/fairlead-project/fairlead/service/control"
)

// kubernetesVersion is the release of Kubernetes whose kube-proxy this program
// behaves like, and whose libraries it is built with.
const kubernetesVersion = "1.36.3"

// buildInfo is what kubernetes_build_info says of this program: as much of what
// other components say as there is. Who compares versions in a cluster compares
// those of Kubernetes, so that is what the version is.
func buildInfo() map[string]string {
	parts := strings.Split(kubernetesVersion, ".")
	return map[string]string{
		"major": parts[0], "minor": parts[1], "git_version": "v" + kubernetesVersion,
		"go_version": runtime.Version(), "compiler": runtime.Compiler, "platform": runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// features are the feature gates of Kubernetes, as they are with what is set. They
// change nothing here.
func features(set map[string]bool) []control.Feature {
	on, err := gates.Resolve(set)
	if err != nil {
		return nil // it has been refused before
	}
	var out []control.Feature
	for _, g := range gates.Known() {
		stage := g.Stage
		if stage == "GA" {
			stage = "" // as other components say it
		}
		out = append(out, control.Feature{Name: g.Name, Stage: stage, Enabled: on[g.Name]})
	}
	return out
}

// gatherer returns every metric there is: ours, and those that the libraries of
// Kubernetes keep for the whole process, of Go, the process, and its requests to the
// API server.
func (p *process) gatherer() prometheus.Gatherer {
	return prometheus.Gatherers{p.reg, legacyregistry.DefaultGatherer}
}

// metricsHandler returns what the metrics server answers.
func (p *process) metricsHandler(health *control.Health) http.Handler {
	major, minor, _ := strings.Cut(kubernetesVersion, ".")
	minor, _, _ = strings.Cut(minor, ".")
	return control.MetricsHandler(control.MetricsConfig{
		Gatherer: p.gatherer(), ProxyMode: p.cfg.Mode, Profiling: p.flags.Profiling,
		Name: "fairlead", Version: buildVersion(), Kubernetes: major + "." + minor, Started: p.started,
		Health: health, Flags: p.flagz, SetVerbosity: p.verbosity.set, Handlers: p.pages,
	})
}

// A listening is one of the two HTTP servers of the process.
type listening struct {
	name, addr string
	event      string // the reason of the Event that says that nobody can be listened to
	handler    http.Handler
}

// serve starts the two HTTP servers.
func (p *process) serve(ctx context.Context, state nodeState, health *control.Health, m *control.Metrics) {
	for _, s := range []listening{
		{"healthz", p.cfg.Healthz, "FailedToStartProxierHealthcheck", health.Handler(m)},
		{"metrics", p.cfg.Metrics, "FailedToStartMetricServer", p.metricsHandler(health)},
	} {
		server := control.Server{
			Name: s.name, Addr: s.addr, Handler: s.handler, Log: p.log,
			HardFail: p.flags.BindAddressHardFail,
			Failed: func(err error) {
				p.reporter.node(state.Name, state.Info, s.event, err.Error())
			},
		}
		if p.flags.Profiling && s.name == "metrics" {
			server.WriteTimeout = profileTimeout
		}
		p.start(ctx, server.Run)
	}
}

// profileTimeout leaves time for a CPU profile or trace of some length.
const profileTimeout = 5 * time.Minute
