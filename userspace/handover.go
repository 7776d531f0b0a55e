package userspace

// SetPrefix begins the names of all sets of this mode, and of no other's.
const SetPrefix = "FLU"

// CatchChains returns the chains of the table mangle that hand packets to the proxy.
func CatchChains() []string { return []string{chainPod, chainHost, chainOutside} }
