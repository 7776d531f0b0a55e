//go:build linux

package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// Require is the environment variable that forbids tests to skip for want of
// privilege: a run that is meant to prove something sets it to 1.
const Require = "FAIRLEAD_E2E_REQUIRE"

// Usable reports why this process cannot build a World, or nil if it can. With
// must, the answer must be nil: see [Require].
func Usable() (err error, must bool) {
	return netns.Usable(), os.Getenv(Require) == "1"
}

// Binary returns the fairlead to test: $FAIRLEAD, or else one built from the
// source tree around the working directory. Any number of tests may call it: a
// binary that is up to date is not built again.
func Binary(ctx context.Context) (string, error) {
	if path := os.Getenv("FAIRLEAD"); path != "" {
		return filepath.Abs(path)
	}
	gomod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the source tree: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(gomod)))
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for the binary: %w", err)
	}
	path := filepath.Join(cache, "fairlead-e2e", "bin", "fairlead")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/fairlead")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build fairlead: %w", err), errors.New(string(out)))
	}
	return path, nil
}
