//go:build linux

// Command bench compares fairlead with kube-proxy in one run, on one kernel, in
// one shape of network, taking turns: A, B, A, B. Run it as root from the source
// tree:
//
//	go run ./e2e/bench -mode suite -o suite.json       # everything below, 25 minutes
//	go run ./e2e/bench report suite.json               # docs/performance.md
//	go run ./e2e/bench -n 200 -variants legacy -quick  # one table, a minute
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
// With -mode suite every proxy goes through that, and more, in every way it has to put
// Services in force on this kernel: iptables legacy and nft, kube-proxy's nftables mode
// and fairlead's userspace mode. The scenarios, by the names that -only takes:
//
//	C1 cold start              C2 restart                C3 one endpoint changes, and
//	                                                        the least that takes the kernel
//	C4 churn at several rates, and the backlog afterwards
//	C5 a rolling update of a Service of 250, 1,000 and 5,000 endpoints
//	C6 Services, and a namespace of them, are added and deleted
//	C7 the API server drops all watches and has forgotten the past; the node's zone changes
//	I1 nothing happens         M1 memory
//	D1 connect()               D2 a connection for each request    D3 requests on kept ones
//	D6 connect() to a Service of 1 to 5,000 endpoints
//	D7 who is connected to while endpoints change
//	V1 C1, C3 and C4 with etcd and kube-apiserver; only when asked for
//
// The first of the numbers of Services goes through all of it, 1,000 through most, those
// below through what a curve needs, and others through what is soon done. A proxy that
// takes more than ten seconds to start is spared what would take it minutes, which is
// noted, and what did not start with fewer endpoints is not tried with more. Worlds for
// which -budget leaves no time are left out; what is still to come, and how long that
// takes, is logged before each. -full has none of these limits.
//
// What others on the machine use is taken in each phase, and a phase in which they used
// too much is done again. The file of -o is written after every phase, with how long that
// took, so a run may be cut short; "bench report" pools files.
//
// With -mode ipvs both proxies are in that mode, and these are measured as well
// or instead:
//
//   - cold start ends when Services answer to pods and to the node itself, which
//     they only do once their addresses are masqueraded, and IPVS has all virtual
//     servers and destinations;
//   - isolated changes are made when the proxy has come to rest after the one
//     before, and all it does until then counts as CPU of the change;
//   - restart: the proxy is killed, an endpoint changes, and the clock runs from
//     exec to the first connection to the new endpoint;
//   - restart without a change: everything that is asked of the kernel by netlink
//     is watched with a device of the type nlmon, and every iptables program is
//     one that notes how it was called. What is counted are the requests to
//     change something, from exec on, through a time in which both proxies look
//     after their rules by themselves. What the kernel holds is compared, too.
//
// A kernel without IPVS is no obstacle: the bench runs itself in a guest of
// package lab, all proxies in one boot. User-mode Linux is the default; it has
// one CPU, and makes system calls and the starting of programs dear, of which
// kube-proxy has many. Try -kernel qemu for one that does not.
//
// What the figures do not say: there is one client, one node and no load, Services
// are TCP ClusterIPs with as many endpoints each, and the API server has no etcd
// behind it. Compare the columns, not the figures with those of another machine.
//
// With -mode userspace it is the data path that is compared, of fairlead's userspace
// mode, HAProxy and fairlead's iptables mode, each in a network of its own that
// arena.go draws. A load of package load runs on one after the other, round by round:
// requests on connections that stay, a connection for each request, and bulk. CPU of
// the whole path is that of this process, which is the clients and the endpoints, of
// the proxy, and of the kernel's threads for packets; what is beyond that on the
// machine is noted as other work. HAProxy's node has neither rules nor Services. The
// column "tracked" is HAProxy on a node that tracks connections, as fairlead's have to.
//
// With -mode l7 it is fairlead l7 that is compared, as a reverse proxy of HTTP, with nginx,
// in the directives of ingress-nginx and with larger buffers, and with HAProxy. All are in
// one network, which l7arena.go draws, and idle but for one; wrk calls from a namespace, and
// nginx answers in two others. The five loads are in l7.go. A proxy's CPU is that of its
// process and children; nobody resumes TLS sessions, and everybody logs every request.
//
// With -soak there is no comparison: userspace mode is under a moderate load while
// endpoints come and go, and the run fails if goroutines, descriptors, memory,
// connections or sessions grow, if something of the load fails, or if connections or
// sessions are left when it is over.
//
// The files: objects.go makes the API objects, store.go keeps and changes them,
// replay.go serves them; network.go is the picture above; proxy.go starts a
// proxy, meter.go, cgroup.go and procfs.go watch what it costs; probe.go and
// connect.go are the clients; measure.go is the order of events in a trial;
// result.go and report.go are what comes out. Of the suite, suite.go and suiteplan.go say
// what is done in which order, suiteworld.go and store.go what there is and what becomes of
// it, suitephases.go, suitestream.go, suitefleet.go, suiterestart.go and suitedata.go are the
// scenarios, nftwatch.go counts what is written, floor.go, floornft.go and floorlegacy.go
// take the kernel's floor, suitebudget.go has an eye on the clock, suitereal.go is the real
// API server, and suitereport.go, targets.go, targetsipvs.go, plot.go, document.go and
// performance.md.tmpl make the report. For IPVS there are coldipvs.go,
// restart.go, contents.go, tap.go and spy.go, which look at the kernel, and
// reportipvs.go; guest.go runs all of it on another kernel. For userspace there are
// arena.go, rivals.go, datapath.go and reportuserspace.go, and soak.go, soakload.go and
// soakverdict.go. For l7 there are l7arena.go, l7rivals.go, l7configs.go, l7load.go and
// l7report.go.
package main
