// Package stats counts what L7 does, for Prometheus.
//
// What is counted for each request has no labels then: whoever compiles a rule asks once for its Rule and keeps it, and a request
// adds to a few numbers in it without a lock. The labels are put on when somebody asks for the metrics. Numbers
// that others count anyway are read from them then, as Sources says.
//
// # How many series there are
//
// A Rule is a combination of Ingress, Service and class, not a host or a path. What has not happened has no series: an Ingress that nobody asks
// has none at all. Rules beyond MaxRules share one whose labels are "_other". Drop forgets rules that exist no more, so that
// the number does not grow with everything that has ever been. Reasons, listeners and certificates are bounded, too.
//
// All metrics are in docs/l7-metrics.md.
package stats
