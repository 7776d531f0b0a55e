package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/takeover"
	"github.com/fairlead-project/fairlead/userspace"
)

// How often, and with which pause, sets are tried again that rules still hold:
// the nft tables let go of them some time after the rules are gone.
const (
	cleanupTries = 20
	cleanupPause = 50 * time.Millisecond
)

// cleanupSets removes what ipvs and userspace mode have put in the kernel beside
// rules, which are gone already.
func (c command) cleanupSets(ctx context.Context, virtual ipvs.Config, proxy userspace.Config, k *loadedKernel, claim *takeover.Claim) error {
	err := cleanKernel(ctx, virtual, proxy, yieldingKernel{k, claim})
	if k.removed > 0 {
		fmt.Fprintf(c.out, "removed %d virtual servers, sets, addresses, routes and rules\n", k.removed)
	}
	return err
}

func cleanKernel(ctx context.Context, virtual ipvs.Config, proxy userspace.Config, k kernel.Kernel) error {
	servers, err := ipvs.New(virtual, k, xt.NoRules{}, nil)
	if err != nil {
		return err
	}
	served, err := userspace.New(proxy, k, xt.NoRules{}, nil)
	if err != nil {
		return err
	}
	var errs []error
	for _, plane := range []service.Dataplane{servers, served} {
		for range cleanupTries {
			err = plane.Cleanup(ctx)
			if !errors.Is(err, syscall.EBUSY) {
				break
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(cleanupPause):
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// A loadedKernel is a kernel as far as its modules are loaded: a module that is
// not holds nothing, and asking would load it.
type loadedKernel struct {
	kernel.Kernel
	root    string // of /proc and /sys
	removed int    // ops that Apply has done
}

// has reports whether a file below root exists. Where that cannot be told, it may.
func (k *loadedKernel) has(path string) bool {
	_, err := os.Stat(filepath.Join(k.root, path))
	return !errors.Is(err, os.ErrNotExist)
}

// hasSets goes by a folder of /sys, which is missing itself where /sys is not
// mounted.
func (k *loadedKernel) hasSets() bool {
	return k.has("/sys/module/ip_set") || !k.has("/sys/module")
}

// Servers implements [kernel.Kernel].
func (k *loadedKernel) Servers(ctx context.Context) (map[kernel.ServerKey]*kernel.ServerState, error) {
	if !k.has("/proc/net/ip_vs") {
		return nil, nil
	}
	return k.Kernel.Servers(ctx)
}

// Sets implements [kernel.Kernel].
func (k *loadedKernel) Sets(ctx context.Context, prefix string) ([]kernel.Set, error) {
	if !k.hasSets() {
		return nil, nil
	}
	return k.Kernel.Sets(ctx, prefix)
}

// Elements implements [kernel.Kernel].
func (k *loadedKernel) Elements(ctx context.Context, name string) ([]kernel.Element, error) {
	if !k.hasSets() {
		return nil, syscall.ENOENT
	}
	return k.Kernel.Elements(ctx, name)
}

// Apply implements [kernel.Kernel].
func (k *loadedKernel) Apply(ctx context.Context, ops []kernel.Op) ([]*kernel.OpError, error) {
	refused, err := k.Kernel.Apply(ctx, ops)
	if err == nil {
		k.removed += len(ops) - len(refused)
	}
	return refused, err
}
