// Command fairlead replaces kube-proxy: it puts the Services of a Kubernetes
// cluster, or of a folder of manifests, in force on the node it runs on.
//
// Without a subcommand it takes kube-proxy's flags and runs until it is told to
// stop, and leaves the rules in place then, so that a restart disturbs nobody.
// The subcommands are tools over the same code:
//
//	fairlead plan     print what would be put in force; no root, no cluster
//	fairlead trace    explain what happens to a packet
//	fairlead status   ask the running fairlead how it is
//	fairlead ipvs     show the virtual servers of this machine, by Service
//	fairlead l7       serve the Ingresses of the cluster; a process of its own, which needs no privileges
//	fairlead check    say what becomes of Ingresses made for ingress-nginx
//	fairlead cleanup  remove everything fairlead has put in the kernel
//	fairlead completion  print a script that makes a shell complete all this
//
// # Exit status
//
//	0  it did what it was asked to, or was told to stop
//	1  it could not
//	2  the command line is wrong
//
// # What is where
//
//	main.go      subcommands, exit status
//	flags.go     the flags, in groups that subcommands share; flags_ipvs.go for ipvs mode
//	config.go    flags to the Config of every package
//	settings.go  configuration files to flags; settings_table.go which field is which flag,
//	settings_effective.go the way back, settings_watch.go files that change
//	log.go       the form of the log
//	node.go      flags, Node object and local addresses to service.Node; pure
//	addrs.go     the addresses of this machine, as they come and go
//	families.go  which address families to serve; pure
//	planes.go    the one place that knows every dataplane; planes_ipvs.go that of ipvs mode
//	planes_choose.go  the first of several modes that the node can run
//	planes_localhost.go  the proxy for node ports at localhost, beside another dataplane
//	run.go       wiring, in the order of start
//	tracker.go   the node while it runs: Node object, addresses
//	problems.go  what operators hear about objects
//	offline.go   what plan, trace and ipvs have in common
//	trace.go     what is decided about a packet; trace_rules.go what is done to it, trace_live.go asks the running process
//	status.go    fairlead status; status_serve.go what the running process answers, status_engines.go what it says of its tools
//	tree.go      the command line as cobra sees it, for completion.go and the manual pages in deploy/man
//	l7.go        fairlead l7; flags_l7.go its flags, l7_listen.go its listeners
//	l7_settle.go which problems last long enough to be told
//	l7_child.go  fairlead l7 as a child of fairlead, for --l7
//	check.go     fairlead check
//	show_ipvs.go virtual servers and the Services they are for
//
// The tests in house_test.go hold the whole repository to its rules.
package main
