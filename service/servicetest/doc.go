// Package servicetest is the test kit every dataplane is held against: a corpus
// of cases a Kubernetes person can read, random worlds, and the harnesses that
// compare a dataplane with the oracle.
//
// # Corpus
//
// A case is one txtar file in corpus/. Its comment lines say what it shows; its
// directives say what must be true; its sections hold Kubernetes YAML.
//
//	# One sentence: what this case shows.
//	covers 1.4/7
//	node n1 zone=a
//	objects svc.yaml slice.yaml
//	flow tcp pod 10.244.1.9 -> 203.0.113.7:80        forward 10.244.2.5:8080 10.244.1.4:8080
//	flow tcp host -> 203.0.113.7:80                  forward 10.244.2.5:8080 masq
//	flow tcp outside 198.51.100.1 -> 203.0.113.7:80  drop
//	flow icmp pod 10.244.1.9 -> 10.96.0.10           reject
//	problem Service default/web FrontendConflict
//	health default/web 30999 IPv4 2
//	affinity default/web:http 10800s
//	scheduling default/web sh sh-fallback,sh-port
//	cluster default/web:http/tcp/IPv4 10.244.1.4:8080*3 10.244.2.5:8080
//	serving default/dns:dns/udp/IPv4 10.244.1.4:53
//	departing default/web:http/tcp/IPv4 10.244.2.6:8080
//	internal default/web:http/tcp/IPv4 forward 10.244.2.5:8080
//	step scale to zero
//	objects step1/slice.yaml
//	delete EndpointSlice default/web-old
//	flow …
//	-- svc.yaml --
//	…
//
// The directives:
//
//	covers     rows of corpus/COVERAGE.md this case is evidence for
//	node       options of the node under test, see below; optional, at most once, first
//	skip       WHO REASON: the tier or dataplane named WHO does not run this case
//	manifest-only REASON: the API server would refuse these objects
//	objects    sections to put in force, in order; one of the same kind and name replaces
//	delete     KIND NAMESPACE/NAME: an object of an earlier step goes away
//	step       ends the current step; what follows holds after its objects and deletes
//	flow       PROTOCOL CALLER [ADDRESS] -> DESTINATION VERDICT [HOP…] [masq]
//	problem    KIND NAMESPACE/NAME REASON
//	health     NAMESPACE/NAME PORT FAMILY COUNT
//	affinity   NAMESPACE/NAME[:PORT] DURATION
//	scheduling NAMESPACE/NAME ALGORITHM [FLAGS], with default for no algorithm
//	cluster    PORTID [ENDPOINT[*WEIGHT]…]: all of Port.Cluster
//	serving    PORTID [ENDPOINT[*WEIGHT]…]: all of Port.Serving
//	departing  PORTID [ENDPOINT[*WEIGHT]…]: all of Port.Departing
//	internal   PORTID VERDICT [ENDPOINT…]: Port.Internal
//
// Problems, health ports, affinities and schedulings of a step are listed
// completely: what is not written must not be there. Flows must name every
// possible hop; which of them one client gets, and how often, is up to weights
// and schedulings. A HOP is
// ADDRESS:PORT, FIRST-LAST:PORT for neighbouring pods, with +masq when this hop
// alone is masqueraded; a last word masq means all of them. A caller is "pod"
// (on the node under test), "host" (the node itself, by default from its primary
// address) or "outside" (a client, another node, or a pod of another node).
//
// # The world
//
// Every case can be played with real packets. The node under test is n1 at
// 172.18.0.11 and fd00:172:18::11; node nK and its pods M (2 to 60) are at
//
//	node nK     172.18.0.1K    fd00:172:18::1K    nodes 1 to 3
//	its gateway 10.244.K.1     fd00:10:244:K::1
//	its pods    10.244.K.M     fd00:10:244:K::M   the digits of M, read as hexadecimal
//	clients     198.51.100.M   2001:db8:51::M
//	VIPs        203.0.113.M    2001:db8:113::M
//	cluster IPs 10.96.0.0/16   fd00:10:96::/112
//
// By default pods are told by the cluster CIDR (10.244.0.0/16 and
// fd00:10:244::/48), node ports answer at every local address but not at
// 127.0.0.1, and nothing is masqueraded beyond need. The options of node are
//
//	zone=a                        label topology.kubernetes.io/zone
//	addrs=192.0.2.11,…            more local addresses
//	nodeports=CIDR,…|primary|none where node ports answer
//	localhostports=on             node ports also answer at 127.0.0.1
//	detector=cidr                 the default; cidr:CIDR,… for other prefixes
//	detector=none|bridge:NAME|prefix:NAME
//	podcidr=CIDR,…                detection by the pod CIDRs of the node
//	masqueradeall                 masquerade everything sent to cluster IPs
package servicetest
