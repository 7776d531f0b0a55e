// Package conntrack makes the kernel forget UDP flows that a change of Services
// has orphaned.
//
// The kernel decides once per flow where it goes and remembers it for as long
// as packets come. A UDP client that keeps its socket and its source port, such
// as a resolver or a log shipper, is therefore sent to a pod that is gone, or
// to no pod at all if it began when there was none, until it pauses for the
// length of a timeout. [service.Stale] decides which flows those are; this
// package finds and deletes them.
//
// # Off the sync path
//
// Reading the table takes as long as the table is large, so nothing waits for
// it: a [Cleaner] has a goroutine of its own and one place in its queue, in
// which what arrives is merged. kube-proxy does the same work under its sync
// lock, where it has been seen to delay rules by seconds.
//
// A packet can be routed by the old rules and enter the table after it was
// read. So a Cleaner reads it three times: at once, and 1 and 5 seconds later.
//
// One of the later two also finds the entries that an answer began which was under
// way when its flow was forgotten; see [service.Stale.Orphan].
//
// # Memory
//
// A [Kernel] streams. It asks the kernel for UDP entries only (Linux 5.8 and
// later filter on their side), looks at each message where it was received, and
// deletes over a second socket while the listing goes on. It holds one receive
// buffer and one batch of deletions, whatever the size of the table.
package conntrack
