//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// images makes the images of fairlead and of the backends, and that of the nodes
// if it is to be made here.
func images(ctx context.Context, s *shell, o options) error {
	if o.node == localNode {
		build := filepath.Join(o.repo, "e2e", "kind", "node", "build")
		if err := s.run(ctx, "env", "GO="+s.gocmd, build, localNode, localBase); err != nil {
			return fmt.Errorf("make the node image: %w", err)
		}
	}
	dir, err := os.MkdirTemp("", "fairlead-kind-")
	if err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	backend := filepath.Join(dir, "backend")
	if err := s.run(ctx, "env", "CGO_ENABLED=0", s.gocmd, "build", "-ldflags", "-s -w", "-o", backend, "./backend"); err != nil {
		return fmt.Errorf("build the backend: %w", err)
	}
	const containerfile = "FROM scratch\nCOPY backend /backend\nENTRYPOINT [\"/backend\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Containerfile"), []byte(containerfile), 0o644); err != nil {
		return err
	}
	if err := build(ctx, s, dir, backendImage, filepath.Join(dir, "Containerfile")); err != nil {
		return err
	}
	if o.image != "" {
		_, err := s.output(ctx, "docker", "tag", o.image, fairleadImage)
		return err
	}
	for from, to := range map[string]string{o.fairlead: "fairlead", filepath.Join(o.repo, "deploy", "image", "collect"): "collect"} {
		if _, err := s.output(ctx, "cp", from, filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	return build(ctx, s, dir, fairleadImage, filepath.Join(o.repo, "e2e", "kind", "Containerfile"), "--build-arg", "BASE="+o.base)
}

func build(ctx context.Context, s *shell, dir, image, containerfile string, args ...string) error {
	all := append([]string{"docker", "build", "-q", "-t", image, "-f", containerfile}, args...)
	if _, err := s.output(ctx, append(all, dir)...); err != nil {
		return fmt.Errorf("make the image %s: %w", image, err)
	}
	return nil
}
