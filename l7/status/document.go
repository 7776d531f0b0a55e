package status

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/stats"
	"github.com/fairlead-project/fairlead/service"
)

// A Document is /status.json. Its names stay; others may be added. Lists are in order and never null, and
// times are RFC 3339 in UTC or left out if there is none.
type Document struct {
	Version      string                `json:"version"`
	Started      time.Time             `json:"started,omitzero"`
	Now          time.Time             `json:"now"`
	Generation   uint64                `json:"generation"`
	Applied      time.Time             `json:"applied,omitzero"`
	Serving      bool                  `json:"ready"`
	Why          string                `json:"notReadyBecause,omitempty"`
	Classes      []DocumentClass       `json:"classes"`
	Ingresses    []string              `json:"ingresses"` // namespace/name of those that are served
	Listeners    []DocumentListener    `json:"listeners"`
	Hosts        []DocumentHost        `json:"hosts"`
	Backends     []DocumentBackend     `json:"backends"`
	Certificates []DocumentCertificate `json:"certificates"`
	Problems     []DocumentProblem     `json:"problems"`
	Counters     []DocumentCounter     `json:"counters"`
}

// A DocumentClass is an IngressClass.
type DocumentClass struct {
	Name       string `json:"name"`
	Controller string `json:"controller"`
	Dialect    string `json:"dialect"`
	Ingresses  int    `json:"ingresses"`
}

// A DocumentListener is a port.
type DocumentListener struct {
	Name     string `json:"name"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
	Open     int64  `json:"open"`
	Accepted uint64 `json:"accepted"`
	Problem  string `json:"problem,omitempty"`
}

// A DocumentHost is a name with its routes, in the order of their paths. The host "*" is all that have none.
type DocumentHost struct {
	Name        string         `json:"name"`
	Dialect     string         `json:"dialect"`
	TLS         bool           `json:"tls"`
	AliasOf     string         `json:"aliasOf,omitempty"`
	Passthrough string         `json:"passthrough,omitempty"`
	Paths       []DocumentPath `json:"paths"`
}

// A DocumentPath is one rule. Without a path it is what unmatched requests get.
type DocumentPath struct {
	Path     string   `json:"path"`
	Kind     string   `json:"kind"`
	Ingress  string   `json:"ingress"`
	Backend  string   `json:"backend"`
	Policies []string `json:"policies"`
	Canary   string   `json:"canary,omitempty"`
	Refused  string   `json:"refused,omitempty"`
}

// A DocumentBackend is a port of a Service.
type DocumentBackend struct {
	Name      string             `json:"name"`
	State     string             `json:"state"` // "good", "degraded" if not all endpoints are, "down" if none is, "empty"
	Problem   string             `json:"problem,omitempty"`
	Endpoints []DocumentEndpoint `json:"endpoints"`
}

// A DocumentEndpoint is one address of a backend.
type DocumentEndpoint struct {
	Address    netip.AddrPort `json:"address"`
	State      string         `json:"state"` // see stats.EndpointState
	Why        string         `json:"why,omitempty"`
	Weight     int            `json:"weight"`
	InFlight   int            `json:"inFlight"`
	Requests   uint64         `json:"requests"`
	Failures   uint64         `json:"failures"`
	Latency    float64        `json:"latencySeconds,omitempty"`
	EjectedFor float64        `json:"ejectedForSeconds,omitempty"`
	SlowStart  float64        `json:"slowStart,omitempty"` // the part of its share that it gets, if that is not all
}

// A DocumentCertificate is one certificate of a host. The host "*" is the default.
type DocumentCertificate struct {
	Host     string    `json:"host"`
	State    string    `json:"state"` // "good", "expiring" within 21 days, "expired", "future"
	Subject  string    `json:"subject"`
	Issuer   string    `json:"issuer"`
	Names    []string  `json:"names"`
	Key      string    `json:"key"`
	NotAfter time.Time `json:"notAfter"`
	Warnings []string  `json:"warnings"`
}

// A DocumentProblem is what is wrong with one object.
type DocumentProblem struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Reason    string `json:"reason"`
	Field     string `json:"field,omitempty"`
	Message   string `json:"message"`
}

// A DocumentCounter is a number.
type DocumentCounter struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}

// expiring is how long before its end a certificate should have been renewed.
const expiring = 21 * 24 * time.Hour

// document makes v what is shown.
func document(v *View, now time.Time) *Document {
	if !v.Now.IsZero() {
		now = v.Now
	}
	d := &Document{
		Version: v.Version, Started: v.Started.UTC(), Now: now.UTC(), Generation: v.Generation, Applied: v.Applied.UTC(),
		Serving: v.Serving, Why: v.Why,
		Classes:   each(v.Classes, func(c *Class) DocumentClass { return DocumentClass(*c) }),
		Ingresses: each(v.Ingresses, func(n *service.Name) string { return n.String() }),
		Listeners: each(v.Listeners, func(l *Listener) DocumentListener {
			return DocumentListener{l.Name, l.Address, l.Protocol, l.Open, l.Accepted, l.Problem}
		}),
		Hosts:        each(v.Hosts, documentHost),
		Backends:     each(v.Backends, documentBackend),
		Certificates: documentCertificates(v.Certificates, now),
		Problems:     each(v.Problems, documentProblem),
		Counters:     each(v.Counters, func(c *Counter) DocumentCounter { return DocumentCounter(*c) }),
	}
	if d.Serving {
		d.Why = ""
	}
	slices.SortStableFunc(d.Classes, func(a, b DocumentClass) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(d.Ingresses)
	slices.SortStableFunc(d.Hosts, func(a, b DocumentHost) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(d.Backends, func(a, b DocumentBackend) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(d.Problems, func(a, b DocumentProblem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Field, b.Field), cmp.Compare(a.Reason, b.Reason))
	})
	return d
}

// each returns a list that is not nil.
func each[T, U any](list []T, f func(*T) U) []U {
	out := make([]U, len(list))
	for i := range list {
		out[i] = f(&list[i])
	}
	return out
}

func documentHost(h *Host) DocumentHost {
	out := DocumentHost{
		Name: cmp.Or(h.Name, "*"), Dialect: h.Dialect, TLS: h.TLS, AliasOf: h.AliasOf, Passthrough: h.Passthrough,
		Paths: each(h.Paths, func(p *Path) DocumentPath {
			return DocumentPath{p.Path, p.Kind, p.Ingress, p.Backend, append([]string{}, p.Policies...), p.Canary, p.Refused}
		}),
	}
	slices.SortStableFunc(out.Paths, func(a, b DocumentPath) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Kind, b.Kind))
	})
	return out
}

func documentBackend(b *Backend) DocumentBackend {
	out := DocumentBackend{Name: b.Name, State: "empty", Problem: b.Problem, Endpoints: make([]DocumentEndpoint, len(b.Endpoints))}
	good, bad := 0, 0
	for i := range b.Endpoints {
		e := &b.Endpoints[i]
		state := stats.EndpointState(e)
		switch state {
		case "used", "slow-start":
			good++
		case "ejected", "trial", "unhealthy":
			bad++
		}
		x := DocumentEndpoint{
			Address: e.Addr, State: state, Weight: e.Weight, InFlight: e.InFlight, Requests: e.Requests, Failures: e.Failures,
			Latency: e.Latency.Seconds(), EjectedFor: e.Ejected.Seconds(),
		}
		if e.SlowStart < 1 {
			x.SlowStart = e.SlowStart
		}
		if e.CheckErr != nil {
			x.Why = e.CheckErr.Error()
		}
		out.Endpoints[i] = x
	}
	switch {
	case good > 0 && bad > 0:
		out.State = "degraded"
	case good > 0:
		out.State = "good"
	case bad > 0:
		out.State = "down"
	}
	return out
}

func documentCertificates(hosts []certs.HostStatus, now time.Time) []DocumentCertificate {
	out := []DocumentCertificate{}
	for _, h := range hosts {
		for _, p := range h.Pairs {
			c := p.Certificate.Leaf
			if c == nil {
				continue
			}
			names := append([]string{}, c.DNSNames...)
			for _, ip := range c.IPAddresses {
				names = append(names, ip.String())
			}
			state := "good"
			switch {
			case now.After(c.NotAfter):
				state = "expired"
			case now.Before(c.NotBefore):
				state = "future"
			case c.NotAfter.Sub(now) < expiring:
				state = "expiring"
			}
			out = append(out, DocumentCertificate{
				Host: cmp.Or(h.Host, "*"), State: state, Subject: c.Subject.String(), Issuer: c.Issuer.String(), Names: names,
				Key: c.PublicKeyAlgorithm.String(), NotAfter: c.NotAfter.UTC(), Warnings: append([]string{}, p.Warnings...),
			})
		}
	}
	slices.SortStableFunc(out, func(a, b DocumentCertificate) int {
		return cmp.Or(a.NotAfter.Compare(b.NotAfter), cmp.Compare(a.Host, b.Host))
	})
	return out
}

func documentProblem(p *service.Problem) DocumentProblem {
	return DocumentProblem{p.Object.Kind, p.Object.Namespace, p.Object.Name.Name, p.Reason, p.Field, p.Message}
}
