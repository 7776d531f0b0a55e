package control

import (
	"cmp"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/service"
)

// deviationReason is the Reason of a Problem that says what a Dataplane cannot
// do.
const deviationReason = "DataplaneDeviation"

// ReasonNodeDeviation is the Reason of a Problem that says what a Dataplane cannot
// do on this node.
const ReasonNodeDeviation = "NodeDeviation"

// tell brings the health-check node ports up to date and passes on the problems
// of what is in force, and more, that were not there last time.
func (l *Loop) tell(more []service.Deviation) {
	found := slices.Clone(l.inForce.Problems)
	deviations := perService(slices.Concat(l.deviations, more))
	for _, d := range deviations {
		reason := deviationReason
		if d.Here {
			reason = ReasonNodeDeviation
		}
		found = append(found, service.Problem{
			Object:  l.store.Service(d.Port.Service),
			Reason:  reason,
			Message: d.Reason,
		})
	}
	if l.cfg.HealthPorts != nil {
		found = append(found, l.cfg.HealthPorts.Sync(l.inForce)...)
	}
	known := make(map[service.Problem]bool, len(found))
	var fresh []service.Problem
	for _, p := range found {
		if !l.known[p] && !known[p] {
			fresh = append(fresh, p)
			l.cfg.Log.Warn("problem", "reason", p.Reason, "problem", p.String())
		}
		known[p] = true
	}
	l.known = known
	l.cfg.Metrics.faults(len(deviations), len(known))
	if len(fresh) > 0 && l.cfg.Problems != nil {
		l.cfg.Problems(fresh)
	}
}

// perService leaves one of the deviations of a Service for each reason, with its
// first port in the reason: what all ports and both families of a Service have in
// common is one thing to tell.
func perService(list []service.Deviation) []service.Deviation {
	slices.SortFunc(list, func(a, b service.Deviation) int {
		return cmp.Or(a.Port.Service.Compare(b.Port.Service), strings.Compare(a.Reason, b.Reason), a.Port.Compare(b.Port))
	})
	list = slices.Compact(list)
	var out []service.Deviation
	for len(list) > 0 {
		first := list[0]
		n := 1
		for n < len(list) && list[n].Port.Service == first.Port.Service && list[n].Reason == first.Reason {
			n++
		}
		list = list[n:]
		who := first.Port.String()
		if n > 1 {
			who += " and others"
		}
		first.Reason = who + ": " + first.Reason
		out = append(out, first)
	}
	return out
}
