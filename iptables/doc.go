// Package iptables puts Snapshots in force with iptables, legacy or nft.
//
// # Chains
//
// All of ours begin with FL-; the built-in chains hold one unconditional jump
// each, at their head.
//
//	nat  PREROUTING ─┐
//	nat  OUTPUT ─────┴► FL-SERVICES ─┬► FL-T-<prefix> ─► … ─► [FL-A-x] ─► FL-P-x
//	                                 └► FL-NODEPORTS ─► FL-N-<prefix> ──►   or
//	                                    (local destinations)              FL-F-x ─► FL-P-x
//
//	                    FL-P: callers to be masqueraded ─► FL-MARK; DNAT to an endpoint
//
//	nat  POSTROUTING ─► FL-POSTROUTING: what is marked is masqueraded, and what
//	                                    is sent back to its own caller
//
//	filter INPUT   ─► FL-INPUT   ─► FL-HEALTH, FL-SERVICES, FL-NODEPORTS
//	filter FORWARD ─► FL-FORWARD ─► FL-SERVICES
//	filter OUTPUT  ─► FL-OUTPUT  ─► FL-SERVICES ─► FL-T-<prefix>: REJECT or DROP
//
// A new connection meets nat first. FL-T chains are a tree over the bits of the
// address ([tree]); its leaves go to the chain of a frontend, through FL-A
// where only some callers are allowed. That chain holds the Routes: which pool for
// which Origin, and whether to mark. An ordinary frontend has one pool for everybody:
// its chain is an FL-P, which marks, picks an endpoint and translates. Where several
// rules lead to a pool, of one frontend or of several, the pool has an FL-P of its own,
// and the frontend an FL-F that leads there. An FL-P
// of more than 16 is the root of a tree of FL-P, three levels at most, each of which
// picks one of 16 by chance ([poolTree]). Chance decides, by the weights of the
// endpoints; a Service that asks for an algorithm does so in vain, for iptables has
// no other.
//
// There is no chain for an endpoint, which kube-proxy needs to mark connections
// that are sent back to their own caller. One rule in POSTROUTING finds those: a
// program for xt_bpf compares the two addresses. A kernel without it gets a tree
// with a rule for each endpoint, FL-H. Compared with a chain for each endpoint
// this takes less than half of the rules, which is what legacy iptables copies
// with every change, and a quarter of the chains, in whose number the first load
// of the nft variant is worse than quadratic.
//
// A packet that comes out of nat untranslated, and is addressed to one of our
// frontends all the same, is one that no Route forwards. The filter table has a
// tree of its own for those: REJECT where nothing serves the frontend, DROP where
// only this caller is not served, and REJECT for whatever else is sent to a
// cluster IP, which would leave by the default route otherwise.
//
// # Who writes what, when
//
// FL-P is named by its contents: a chain that is there is right, and is never
// rewritten. A Service with a changed endpoint gets a new FL-P beside the old
// one, then the chain that leads there is swung to it, FL-F, FL-A or a leaf of the tree,
// then the old one goes, all in one transaction of the nat table.
// Of a tree that is the way to the endpoint: five thousand endpoints
// or three hundred, six chains for one that takes the place of another. The lists of clients that session affinity remembers are named
// by Port and endpoint, so they outlive a change of pools. FL-F, FL-A and the
// trees are named by what they are for and rewritten in place.
//
// iptables-restore commits table by table. What filter gains goes first and what
// it loses last, so that no packet finds itself between the tables: see [delta].
//
// # Limits
//
// Session affinity is kept by xt_recent, which remembers 100 clients for each
// endpoint unless the module was loaded with a larger ip_list_tot; the client
// not seen for longest is forgotten first. It can be asked whether it knows a client,
// not where it belongs: a connection to a Service with affinity meets a rule for each
// endpoint. nf_tables refuses rulesets in which a
// packet could be nested in more than 16 chains; the deepest way here is 15,
// and the length of the way through a tree is bounded for that.
//
// # Review notes
//
// Does a new chain name follow from its contents, or is it rewritten in place,
// and does [contentNamed] know? Is a chain written before something jumps to it
// and removed after nothing does? Does the evaluator in xt know the new match,
// so that the oracle test covers it?
package iptables
