// Package xt is typed iptables rules that can be printed, compared with what
// the kernel has, put in force, and evaluated. It knows nothing of Services and
// imports only the standard library.
//
// # What is ours
//
// A [Ruleset] is all we want in one family: chains whose names start with
// [Prefix], and a [Hook] for each built-in chain that leads into them. Nothing
// else is ever written, flushed or deleted. Save tells what is there as a
// [State] without keeping the rules: a count and a hash for each chain.
//
//	Ruleset ──AppendText──► text, canonical: for goldens and for people
//	   │  └────Eval───────► what would happen to a packet
//	   └──Diff(State)─────► Restore ──Runner──► kernel
//
// # What the tools do
//
// As of iptables 1.8.9; where the variants differ, both are tested for real.
//
//   - Each table is a transaction: chains can be flushed and filled, hooks
//     inserted and chains deleted in one COMMIT, and a packet sees all of it or
//     nothing. Tables before one that fails stay committed.
//   - ":CHAIN - [0:0]" creates a chain or flushes it. A chain to be deleted is
//     declared first, so it need not exist, and what it refers to can go as well.
//   - "-X" of a chain that is still referred to fails the whole table, in the
//     nft variant with EBUSY. [Stray] exists for that reason.
//   - Both variants put up with what the kernel would not like in chains that
//     no packet can reach. It is refused once a built-in chain leads there:
//     DNAT after routing, MASQUERADE before it, loops, nesting beyond
//     [MaxDepth] (the legacy variant has no such limit).
//   - The legacy variant blames the COMMIT line for all the kernel refuses. The
//     nft variant names the line, except for a jump to nowhere.
//   - "--test" of the nft variant succeeds for a rule its kernel would refuse.
//   - A rule may only name an ipset that exists and is of its family or of none,
//     and then the set stays until the rule is gone.
//   - NETMAP after routing is taken, and maps the source.
//   - Neither refuses a port above 65535: it is cut to 16 bits.
//
// # The fake
//
// [Fake] reads the same text as the tools and refuses what they refuse, in
// either variant. TestParity holds it to that.
package xt
