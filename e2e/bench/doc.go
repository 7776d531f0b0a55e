//go:build linux

// Command bench compares fairlead with kube-proxy in one run, on one kernel, in
// one shape of network, taking turns: A, B, A, B. Run it as root from the source
// tree:
//
//	go run ./e2e/bench -n 200 -variants legacy -quick
//
// Both proxies run unmodified against a replay API server inside this process,
// which knows when it sent each event. Each has a network of its own:
//
//	pod 10.244.1.2 ──veth── n1: the proxy and its rules ──veth── router
//	(the clients)                                                API server, and all other
//	                                                             10.244.0.0/16 on lo
//
// so every endpoint of every Service answers, and it is the data path, never a
// proxy's own metric, that says when a rule is in force. The range 10.244.0.0/24
// is a black hole, for endpoints that are to be missing.
//
// What is measured, per proxy, iptables variant and number of Services:
//
//   - cold start: from exec to the first and to the last Service that can be
//     reached, and the CPU spent until then, children and kernel included;
//   - isolated changes: from the moment the API server starts to write the
//     event to the first connection to the new endpoint, and CPU per change;
//   - churn: CPU per 1000 endpoint changes, and the same latency meanwhile;
//   - memory: the proxy's own, its largest child's, and the peak charged to their
//     cgroup, which includes kernel memory and leaves out the text of programs
//     that had been read before;
//   - connect() to a Service and to what is no Service, with the proxies stopped
//     and their rules left behind, in blocks that take turns among the proxies.
//
// What the figures do not say: there is one client, one node and no load, Services
// are TCP ClusterIPs with five endpoints, and the API server has no etcd behind
// it. Compare the columns, not the figures with those of another machine.
//
// The files: objects.go makes the API objects, store.go keeps and changes them,
// replay.go serves them; network.go is the picture above; proxy.go starts a
// proxy, meter.go, cgroup.go and procfs.go watch what it costs; probe.go and
// connect.go are the clients; measure.go is the order of events in a trial;
// result.go and report.go are what comes out.
package main
