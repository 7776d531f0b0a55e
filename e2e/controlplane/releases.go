//go:build linux

package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Release returns a program of a Kubernetes release other than the pinned one, such as
// "kube-proxy" of "1.28.15", under the terms of [Binaries]. It is compiled by today's Go,
// from the modules that the go.mod of the release says, which the checksum database of Go
// vouches for: nothing of it is pinned here. A program that was built before is found
// without a network.
func Release(ctx context.Context, version, name string) (string, error) {
	b, err := releaseBuilder(ctx, "v"+strings.TrimPrefix(version, "v"))
	if err != nil {
		return "", fmt.Errorf("%s of Kubernetes %s: %w", name, version, err)
	}
	path, err := b.binary(ctx, name, "k8s.io/kubernetes/cmd/"+name)
	if err != nil {
		return "", fmt.Errorf("for Kubernetes %s: %w", version, err)
	}
	return path, nil
}

func releaseBuilder(ctx context.Context, version string) (*builder, error) {
	flags, err := buildFlags(version, "mod")
	if err != nil {
		return nil, err
	}
	b := &builder{flags: flags}
	toolchain, err := b.toolchain(ctx)
	if err != nil {
		return nil, err
	}
	root, err := cacheRoot()
	if err != nil {
		return nil, err
	}
	b.dir = filepath.Join(root, "kubernetes-"+version+"-"+strings.ReplaceAll(toolchain, "\n", "-"))
	b.tools = filepath.Join(b.dir, "module")
	b.make = func(ctx context.Context) error { return b.writeModule(ctx, version) }
	return b, nil
}

// writeModule makes a module that needs nothing but a release of Kubernetes. The go
// command adds what that needs.
func (b *builder) writeModule(ctx context.Context, version string) error {
	if err := os.MkdirAll(b.tools, 0o755); err != nil {
		return err
	}
	path := filepath.Join(b.tools, "go.mod")
	if err := os.WriteFile(path, []byte("module releases\n"), 0o644); err != nil {
		return err
	}
	var got struct{ GoMod string }
	if err := b.json(ctx, &got, "mod", "download", "-json", "k8s.io/kubernetes@"+version); err != nil {
		return err
	}
	var theirs goMod
	if err := b.json(ctx, &theirs, "mod", "edit", "-json", got.GoMod); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(theirs.forRelease(version)), 0o644)
}

// json decodes what the go command prints.
func (b *builder) json(ctx context.Context, into any, args ...string) error {
	out, err := b.output(ctx, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("go %s: %w", args[0], err)
	}
	return nil
}

// A goMod is what go mod edit -json prints, in part.
type goMod struct {
	Go      string
	Require []module
	Replace []struct{ Old, New module }
}

type module struct{ Path, Version string }

// forRelease is the go.mod of a module that needs a release of Kubernetes, whose own is m.
// There, what is published as v0.X.Y beside v1.X.Y is v0.0.0, and lies in a folder that no
// module contains. The language version is theirs, and with it what GODEBUG says.
func (m goMod) forRelease(version string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "module releases\n\ngo %s\n\nrequire k8s.io/kubernetes %s\n\n", m.Go, version)
	beside := "v0." + strings.TrimPrefix(version, "v1.")
	for _, r := range m.Require {
		if r.Version == "v0.0.0" && strings.HasPrefix(r.Path, "k8s.io/") {
			fmt.Fprintf(&s, "replace %s => %s %s\n", r.Path, r.Path, beside)
		}
	}
	for _, r := range m.Replace {
		if r.New.Version != "" {
			fmt.Fprintf(&s, "replace %s %s => %s %s\n", r.Old.Path, r.Old.Version, r.New.Path, r.New.Version)
		}
	}
	return s.String()
}
