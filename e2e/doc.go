// Package e2e holds the tests that run a real fairlead against a real kernel with
// real packets: see the subpackage world for the scene, and the corpus of package
// servicetest for what must be true. Everything here needs Linux and root.
package e2e
