//go:build linux

package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cacheEnv names the folder to keep built programs in, when set.
const cacheEnv = "FAIRLEAD_E2E_CACHE"

// Paths locates the programs that make up a control plane.
type Paths struct {
	Etcd      string
	APIServer string
}

// Binaries returns etcd and kube-apiserver, building whichever is not in the
// cache yet (see the package comment). Any number of goroutines and processes
// may call it at once: one builds, the others wait for it. It must be called
// from a working directory inside the fairlead source tree, as tests are, and
// needs the go command.
func Binaries(ctx context.Context) (Paths, error) {
	b, err := newBuilder(ctx)
	if err != nil {
		return Paths{}, err
	}
	etcd, err := b.binary(ctx, "etcd", "go.etcd.io/etcd/server/v3")
	if err != nil {
		return Paths{}, err
	}
	server, err := b.binary(ctx, "kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver")
	if err != nil {
		return Paths{}, err
	}
	return Paths{Etcd: etcd, APIServer: server}, nil
}

// KubeProxy returns kube-proxy of the same release as the API server, under the
// terms of [Binaries]. It is apart because few tests want it.
func KubeProxy(ctx context.Context) (string, error) {
	b, err := newBuilder(ctx)
	if err != nil {
		return "", err
	}
	return b.binary(ctx, "kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy")
}

// A builder turns the pins of the module e2e/tools into executables.
type builder struct {
	tools string                      // folder of the module e2e/tools, or of another that says what to build
	dir   string                      // where executables of exactly this recipe go
	flags []string                    // of go build
	make  func(context.Context) error // makes the module; nil where it is there
}

// newBuilder works out what would be built and where it would be kept. It runs
// the go command twice but builds nothing.
func newBuilder(ctx context.Context) (*builder, error) {
	b := &builder{}
	var err error
	if b.tools, err = toolsModule(); err != nil {
		return nil, err
	}
	version, err := b.output(ctx, "list", "-mod=readonly", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return nil, err
	}
	if b.flags, err = buildFlags(version, "readonly"); err != nil {
		return nil, err
	}
	toolchain, err := b.toolchain(ctx)
	if err != nil {
		return nil, err
	}
	root, err := cacheRoot()
	if err != nil {
		return nil, err
	}
	recipe, err := hashRecipe(b.tools, append(slices.Clone(b.flags), toolchain))
	if err != nil {
		return nil, err
	}
	b.dir = filepath.Join(root, recipe)
	return b, nil
}

// toolchain says with what and for what is built.
func (b *builder) toolchain(ctx context.Context) (string, error) {
	return b.output(ctx, "env", "GOVERSION", "GOOS", "GOARCH")
}

// toolsModule finds the folder e2e/tools from the working directory upwards:
// go test runs a test in the folder of its package.
func toolsModule() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the module e2e/tools: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		tools := filepath.Join(dir, "e2e", "tools")
		if _, err := os.Stat(filepath.Join(tools, "go.mod")); err == nil {
			return tools, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the module e2e/tools: no such folder in or above %s", wd)
		}
	}
}

// cacheRoot returns the folder that holds one folder per recipe.
func cacheRoot() (string, error) {
	if dir := os.Getenv(cacheEnv); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder to keep built programs in (set %s to choose one): %w", cacheEnv, err)
	}
	return filepath.Join(dir, "fairlead-e2e"), nil
}

// buildFlags returns the flags of go build for a Kubernetes release such as
// v1.36.3. A kube-apiserver that does not know its version reports v0.0.0 to
// every client, and clients decide things by it. mod is whether go.mod may be changed:
// "readonly" or "mod".
func buildFlags(version, mod string) ([]string, error) {
	major, rest, ok := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 {
		return nil, fmt.Errorf("build for Kubernetes %q: not a release version", version)
	}
	const pkg = "k8s.io/component-base/version"
	ld := []string{"-s", "-w"} // nobody debugs these, and they are 100 MB with symbols
	for _, kv := range []string{"gitVersion=" + version, "gitMajor=" + major, "gitMinor=" + minor, "gitTreeState=clean"} {
		ld = append(ld, "-X", pkg+"."+kv)
	}
	return []string{"-mod=" + mod, "-trimpath", "-buildvcs=false", "-ldflags", strings.Join(ld, " ")}, nil
}

// hashRecipe names everything that decides what the executables are.
func hashRecipe(tools string, more []string) (string, error) {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(tools, name))
		if err != nil {
			return "", fmt.Errorf("hash the pins of the module e2e/tools: %w", err)
		}
		more = append(more, string(data))
	}
	// JSON keeps the boundaries between the parts.
	if err := json.NewEncoder(h).Encode(more); err != nil {
		return "", fmt.Errorf("hash the pins of the module e2e/tools: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// binary returns the executable called name, building pkg if need be. It
// appears under its final name only when complete, so whoever sees it may run
// it; the lock merely saves others the work.
func (b *builder) binary(ctx context.Context, name, pkg string) (string, error) {
	path := filepath.Join(b.dir, name)
	if exists(path) {
		return path, nil
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	lock, err := lockFile(ctx, path+".lock")
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	defer lock.Close()
	if exists(path) { // built while we waited
		return path, nil
	}
	if b.make != nil {
		if err := b.make(ctx); err != nil {
			return "", fmt.Errorf("build %s: %w", name, err)
		}
	}
	part := path + ".part" // ours alone while we hold the lock
	args := slices.Concat([]string{"build"}, b.flags, []string{"-o", part, pkg})
	if _, err := b.output(ctx, args...); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	if err := os.Rename(part, path); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return path, nil
}

// output runs the go command in the tools module and returns what it printed,
// trimmed. GOFLAGS is cleared because it may hold flags meant for fairlead's own
// module, such as -race or -modfile, and cgo is off so that the executables do
// not depend on the machine's libraries.
func (b *builder) output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.tools
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], errors.Join(err, ctx.Err()), lastLines(stderr.String(), 20))
	}
	return strings.TrimSpace(string(out)), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lockFile takes an exclusive lock that the kernel drops when the closer is
// closed or the process dies, however it dies. It polls, because a blocked flock
// would not notice the end of ctx.
func lockFile(ctx context.Context, path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another process to finish building (lock %s): %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}
