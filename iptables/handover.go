package iptables

// MarkChain returns a chain of the table nat that this mode has as long as it is in
// force, and no other mode.
func MarkChain() string { return chainMark }
