//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Choice says which of the kernels that a distribution has.
type Choice int

// The choices.
const (
	Stock  Choice = iota // what it installs unless told otherwise
	Newest               // the highest version, from whatever sources are configured
)

// ErrNoneNewer is that the newest kernel is the stock one.
var ErrNoneNewer = errors.New("the package sources have no kernel newer than the stock one")

// cacheEnv names the folder to keep what was downloaded in, when set; the
// package controlplane keeps what it has built there too.
const cacheEnv = "FAIRLEAD_E2E_CACHE"

// A bootable is a kernel package, unpacked.
type bootable struct {
	release string // as in /lib/modules
	image   string
	tree    string // holds lib/modules
	modules string
}

// series is "6.1" for "6.1.0-50-cloud-amd64".
func (k *bootable) series() string {
	parts := strings.SplitN(k.release, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// fetchKernel downloads and unpacks a kernel, unless that was done before. It
// is never installed.
func fetchKernel(ctx context.Context, want Choice) (*bootable, error) {
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	try := func() (*bootable, error) {
		pkgs, err := choose(ctx, want)
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(cache, pkgs[0])
		if k, err := openKernel(dir); err == nil {
			return k, nil
		}
		return download(ctx, dir, pkgs)
	}
	k, err := try()
	if err == nil || errors.Is(err, ErrNoneNewer) || ctx.Err() != nil {
		return k, err
	}
	// Lists are not there in most container images, or are out of date.
	if _, update := output(ctx, "apt-get", "update", "-qq"); update != nil {
		return nil, errors.Join(err, update)
	}
	return try()
}

func cacheDir() (string, error) {
	dir := os.Getenv(cacheEnv)
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a folder to keep kernels in (set %s to choose one): %w", cacheEnv, err)
		}
		dir = filepath.Join(user, "fairlead-e2e")
	}
	dir, err := filepath.Abs(filepath.Join(dir, "kernels"))
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// choose returns the packages that make up a kernel, that of the kernel first.
func choose(ctx context.Context, want Choice) ([]string, error) {
	stock, err := stockPackage(ctx)
	if err != nil {
		return nil, err
	}
	if want == Stock {
		return withModules(stock), nil
	}
	names, err := output(ctx, "apt-cache", "pkgnames", "linux-image-")
	if err != nil {
		return nil, err
	}
	newest := newestPackage(strings.Fields(names), stock)
	if newest == stock {
		return nil, fmt.Errorf("%w, %s", ErrNoneNewer, stock)
	}
	return withModules(newest), nil
}

// stockPackage asks what the package depends on that follows the stock kernel of
// virtual machines: linux-image-cloud-amd64 in Debian, linux-image-virtual in Ubuntu.
func stockPackage(ctx context.Context) (string, error) {
	for _, follows := range []string{"linux-image-cloud-amd64", "linux-image-virtual"} {
		out, err := output(ctx, "apt-cache", "depends", follows)
		if err != nil {
			continue
		}
		for line := range strings.Lines(out) {
			name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
			if ok && kernelPackage().MatchString(name) {
				return name, nil
			}
		}
	}
	return "", errors.New("the package sources have neither linux-image-cloud-amd64 nor linux-image-virtual")
}

// kernelPackage matches packages that hold a kernel, and its version and flavour.
func kernelPackage() *regexp.Regexp {
	return regexp.MustCompile(`^linux-image-(\d+\.\d+\.\d+.*)-(cloud-amd64|generic)$`)
}

// newestPackage returns the one with the highest version among those of the
// flavour of stock, if its series is higher than that of stock, and else stock.
func newestPackage(names []string, stock string) string {
	re := kernelPackage()
	is := re.FindStringSubmatch(stock)
	newest, highest := stock, numbers(is[1])
	series := highest[:2]
	for _, name := range names {
		m := re.FindStringSubmatch(name)
		if m == nil || m[2] != is[2] {
			continue
		}
		v := numbers(m[1])
		if slices.Compare(v[:2], series) > 0 && slices.Compare(v, highest) > 0 {
			newest, highest = name, v
		}
	}
	return newest
}

// numbers are the numbers in a version, in order.
func numbers(version string) []int {
	var out []int
	for _, digits := range regexp.MustCompile(`\d+`).FindAllString(version, -1) {
		n, err := strconv.Atoi(digits)
		if err != nil {
			n = 0 // too large for any version there is
		}
		out = append(out, n)
	}
	return out
}

// withModules adds the packages that Ubuntu keeps modules in.
func withModules(pkg string) []string {
	if version, ok := strings.CutPrefix(pkg, "linux-image-"); ok && strings.HasSuffix(pkg, "-generic") {
		return []string{pkg, "linux-modules-" + version}
	}
	return []string{pkg}
}

// download makes dir, whole or not at all: others may be at it too.
func download(ctx context.Context, dir string, pkgs []string) (*bootable, error) {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	get := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-qq", "-o", "APT::Sandbox::User=root"}, pkgs...)...)
	get.Dir = tmp
	if out, err := get.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("download %s: %w: %s", pkgs[0], err, bytes.TrimSpace(out))
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return nil, err
	}
	tree := filepath.Join(tmp, "tree")
	for _, deb := range debs {
		if _, err := output(ctx, "dpkg", "-x", deb, tree); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(filepath.Join(tree, "lib")); errors.Is(err, fs.ErrNotExist) {
		if err := os.Symlink("usr/lib", filepath.Join(tree, "lib")); err != nil {
			return nil, err
		}
	}
	k, err := openKernel(tree)
	if err != nil {
		return nil, err
	}
	if _, err := output(ctx, "depmod", "-b", tree, k.release); err != nil {
		return nil, err
	}
	if err := os.Rename(tree, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return openKernel(dir)
}

// openKernel finds what is what in an unpacked package.
func openKernel(tree string) (*bootable, error) {
	images, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%s has %d kernels in boot, want one", tree, len(images))
	}
	_, release, _ := strings.Cut(filepath.Base(images[0]), "-")
	k := &bootable{release: release, image: images[0], tree: tree, modules: filepath.Join(tree, "lib", "modules")}
	_, err = os.Stat(filepath.Join(k.modules, release))
	return k, err
}

// output runs a program and returns what it writes to standard output. The
// error has what it writes to standard error.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr console
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.tail())
	}
	return string(out), nil
}
