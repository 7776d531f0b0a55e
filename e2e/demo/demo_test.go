//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWithout takes endpoints out of the example that the demo edits.
func TestWithout(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "examples", "clusterip.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, addr := range []string{"10.244.2.2", "fd00:10:244:2::2"} {
		shorter := without(text, addr)
		if strings.Contains(shorter, addr) {
			t.Errorf("%s is still there", addr)
		}
		if got, want := strings.Count(text, "\n")-strings.Count(shorter, "\n"), 3; got != want {
			t.Errorf("without %s it is %d lines shorter, want %d", addr, got, want)
		}
		text = shorter
	}
	if without(text, "10.244.9.9") != text {
		t.Error("an endpoint that is not there makes a difference")
	}
}
