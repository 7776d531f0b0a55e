//go:build linux

package e2e

import "testing"

// requireIPVS will be replaced.
func requireIPVS(t *testing.T) { t.Helper() }
