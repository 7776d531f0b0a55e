//go:build linux

package controlplane

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestBinary builds a small program with the builder of the large ones.
func TestBinary(t *testing.T) {
	src := t.TempDir()
	write(t, src, "go.mod", "module example.com/hello\n\ngo 1.26\n")
	write(t, src, "main.go", "package main\n\nvar word = \"nothing\"\n\nfunc main() { println(word) }\n")
	flags := []string{"-trimpath", "-ldflags", "-X main.word=hello"}
	b := &builder{tools: src, dir: filepath.Join(t.TempDir(), "recipe"), flags: flags}

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			path, err := b.binary(t.Context(), "hello", ".")
			if err != nil {
				t.Error(err)
				return
			}
			out, err := exec.Command(path).CombinedOutput()
			if got, want := string(out), "hello\n"; err != nil || got != want {
				t.Errorf("the program: got %q, %v, want %q", got, err, want)
			}
		})
	}
	wg.Wait()

	// From the cache, or this would fail.
	write(t, src, "main.go", "package main\n\nfunc main() { undefined() }\n")
	if _, err := b.binary(t.Context(), "hello", "."); err != nil {
		t.Error(err)
	}
	_, err := b.binary(t.Context(), "again", ".")
	if err == nil || !strings.Contains(err.Error(), "undefined: undefined") {
		t.Errorf("build of broken source: got %v, want what the compiler said", err)
	}
}

func TestProgramsAreTheRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("builds etcd, kube-apiserver and kube-proxy the first time")
	}
	bins, err := Binaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kubeProxy, err := KubeProxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{bins.APIServer, kubeProxy} {
		out, err := exec.CommandContext(t.Context(), path, "--version").Output()
		if err != nil {
			t.Errorf("%s --version: %v", path, err)
		}
		if !regexp.MustCompile(`^Kubernetes v1\.\d+\.\d+\n$`).Match(out) {
			t.Errorf("%s --version: got %q, want a release", path, out)
		}
	}
}

func TestHashRecipe(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "go.mod", "a")
	write(t, dir, "go.sum", "b")
	hash := func(more ...string) string {
		t.Helper()
		h, err := hashRecipe(dir, more)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	first := hash("go1.26.0")
	if again := hash("go1.26.0"); again != first {
		t.Errorf("same recipe: got %s, want %s", again, first)
	}
	if other := hash("go1.26.1"); other == first {
		t.Error("another Go version has the same hash")
	}
	write(t, dir, "go.mod", "ab")
	write(t, dir, "go.sum", "")
	if other := hash("go1.26.0"); other == first {
		t.Error("other pins have the same hash")
	}
}

func TestBuildFlagsVersion(t *testing.T) {
	flags, err := buildFlags("v1.36.3", "readonly")
	if err != nil {
		t.Fatal(err)
	}
	ld := flags[len(flags)-1]
	for _, want := range []string{".gitVersion=v1.36.3", ".gitMajor=1", ".gitMinor=36"} {
		if !strings.Contains(ld, want) {
			t.Errorf("linker flags do not set %s: %s", want, ld)
		}
	}
	if _, err := buildFlags("latest", "readonly"); err == nil {
		t.Error("got no error for a version that is none")
	}
}

func TestLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := lockFile(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while held: got %v, want %v", err, context.DeadlineExceeded)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	again.Close()
}

func write(t *testing.T, dir, name, data string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}
