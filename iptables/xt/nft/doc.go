// Package nft writes and reads the tables of iptables-nft without its tools, over a
// netlink socket that stays open: what takes a tool ten milliseconds takes one.
//
// # What the rules are
//
// To the byte what iptables-nft writes, so that the tools see and edit
// them like any other: see [Runner.Prove], which holds this against the tool that is
// installed on the kernel that runs. Header fields, ports and marks are expressions
// of nf_tables; everything else is a match or target of xtables in a compat
// expression, from package abi.
//
// # What the kernel does (6.18; the source is net/netfilter/nf_tables_api.c)
//
//   - A transaction is one message to the kernel. It is done when the call that sends
//     it returns, all of it or nothing, and every objection is waiting to be read.
//   - To make a chain that exists, or to flush one that is empty, is no error. So a
//     change needs to know nothing of what is there.
//   - A rule can lead to a chain that is made in the same transaction, before it.
//   - Rules that are added to a table have the kernel walk from each base chain over
//     all that can be reached, once for each transaction (nft_table_validate). That is
//     what a change costs in a large table, whoever writes it. Nothing can be reached
//     while there are no hooks, so these come last in a load.
//   - To go on with a list of rules it counts from the beginning. So rules are read chain
//     by chain.
package nft
