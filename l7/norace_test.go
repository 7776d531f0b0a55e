//go:build !race

package l7

// raceFactor is how much slower the race detector may make us.
const raceFactor = 1
