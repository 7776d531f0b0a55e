package control

import (
	"slices"

	"github.com/fairlead-project/fairlead/service"
)

// deviationReason is the Reason of a Problem that says what a Dataplane cannot
// do.
const deviationReason = "DataplaneDeviation"

// tell brings the health-check node ports up to date and passes on the problems
// of what is in force, and more, that were not there last time.
func (l *Loop) tell(more []service.Deviation) {
	found := slices.Clone(l.inForce.Problems)
	for _, d := range slices.Concat(l.deviations, more) {
		found = append(found, service.Problem{
			Object:  service.Object{Kind: "Service", Name: d.Port.Service},
			Reason:  deviationReason,
			Message: d.Port.String() + ": " + d.Reason,
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
	if len(fresh) > 0 && l.cfg.Problems != nil {
		l.cfg.Problems(fresh)
	}
}
