//go:build race

package kube

// raceEnabled reports whether the race detector is compiled in.
func raceEnabled() bool { return true }
