// Package service decides what every packet sent to a Kubernetes Service must
// meet, once, and stores the decision as data that any dataplane can render.
//
// # Vocabulary
//
// These words mean one thing each in the whole tree:
//
//	Frontend   an address and port this node answers for a Service
//	Endpoint   the address and port of a pod, and its weight
//	Pool       a sorted list of Endpoints
//	Origin     who is calling: a pod on this node, the node itself, or anyone else
//	Route      what happens to a new connection of one Origin to one Frontend
//	Snapshot   everything this node must make true at one moment
//	Dataplane  what makes it true
//
// # The table
//
// All of Kubernetes traffic policy is this table. "cluster" is the Pool for
// callers without a locality constraint, "local" the Pool on this node, "masq"
// that the caller's source address is replaced by the node's.
//
//	frontend, policy             FromPod           FromHost          FromOutside
//	cluster IP, internal=Cluster cluster           cluster + masq    cluster + masq
//	cluster IP, internal=Local   local             local + masq      local + masq
//	external,   external=Cluster cluster + masq    cluster + masq    cluster + masq
//	external,   external=Local   cluster           cluster + masq    local
//	cluster IP, no pod detector  pool              pool              pool
//
// External means external IP, load-balancer IP or node port. An empty Pool
// means Drop when an endpoint is usable on another node and Reject when none
// is usable anywhere; Reject is decided before source ranges. Without a pod
// detector nobody is FromPod: the FromPod column then repeats FromOutside, and
// cluster-IP traffic keeps its source, as in the last row. Node.MasqueradeAll
// turns masquerading on for every cluster IP row. Whatever the table says, a
// connection that is sent back to its own caller is masqueraded, or the answer
// would bypass the node; and one that arrives and is sent to the node itself is
// not, since it does not leave again.
//
// # Shares
//
// The connections of a Pool are shared out evenly unless slices have weights:
// then an Endpoint gets as many of them as its weight is of the sum of the weights
// of the Pool it is in. Weights choose nobody and exclude nobody: they are not
// looked at until the table has named the Pool. Of an address that several slices
// hold, the entry that counts brings its weight along. The [Scheduling] of a
// Service says by which algorithm, where a dataplane has a choice; it changes how
// often an Endpoint of the Pool is picked and nothing else.
//
// # Data flow
//
// A [Store] takes [Service], [Slice] and [Node] values, already parsed and
// checked, and yields immutable [Snapshot] values. A [Port] that did not change
// keeps its pointer from one Snapshot to the next, which is what lets a
// dataplane do work in proportion to the change. [Snapshot.Resolve] says what
// must happen to a packet: it is the oracle every dataplane is tested against,
// and `fairlead trace` prints its reasons.
//
// The package imports nothing but the standard library and holds no locks, no
// clock and no I/O.
package service
