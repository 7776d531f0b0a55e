//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Inside is the environment variable that holds the name of the kernel in every
// job that [Kernel.Run] runs. It is not set on the host.
const Inside = "FAIRLEAD_LAB"

// CheckIPVS reports what the running kernel lacks of what IPVS mode is built on,
// or nil if all is there. It tries things out, in a network namespace that
// nobody sees, because whether a module can be loaded is known only afterwards.
func CheckIPVS(ctx context.Context) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with this goroutine, and the namespace with it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		done <- checkIPVS(ctx)
	}()
	return <-done
}

// checkIPVS leaves things behind in the namespace of the thread.
func checkIPVS(ctx context.Context) error {
	var errs []error
	if _, err := netlink.GenlFamilyGet("IPVS"); err != nil {
		errs = append(errs, fmt.Errorf("ip_vs: %w", err))
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "kube-ipvs0"
	if err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attrs}); err != nil {
		errs = append(errs, fmt.Errorf("dummy device: %w", err))
	}
	for _, kind := range []string{"hash:ip", "hash:ip,port", "hash:ip,port,net", "bitmap:port"} {
		if err := addSet(kind); err != nil {
			errs = append(errs, fmt.Errorf("set of %s: %w", kind, err))
		}
	}
	return errors.Join(append(errs, checkRules(ctx)...)...)
}

func addSet(kind string) error {
	options := netlink.IpsetCreateOptions{Family: unix.AF_INET}
	if kind == "bitmap:port" {
		options = netlink.IpsetCreateOptions{PortFrom: 1, PortTo: 65535}
	}
	return netlink.IpsetCreate(strings.ReplaceAll(kind, ":", "-"), kind, options)
}

// checkRules tries the matches and targets that are not in every kernel. It does
// with either kind of iptables.
func checkRules(ctx context.Context) []error {
	rules := [][]string{
		{"-t", "nat", "-A", "POSTROUTING", "-m", "ipvs", "--ipvs", "-j", "RETURN"},
		{"-t", "nat", "-A", "PREROUTING", "-m", "set", "--match-set", "hash-ip,port", "dst,dst", "-j", "RETURN"},
		{"-t", "nat", "-A", "PREROUTING", "-d", "192.0.2.0/24", "-j", "NETMAP", "--to", "198.51.100.0/24"},
		{"-t", "nat", "-A", "POSTROUTING", "-m", "bpf", "--bytecode", "1,6 0 0 0", "-j", "MASQUERADE"},
		{"-t", "mangle", "-A", "PREROUTING", "-j", "MARK", "--set-xmark", "0x8000/0x8000"},
	}
	var errs []error
	for _, args := range rules {
		_, err := output(ctx, "iptables", args...)
		if err == nil {
			continue
		}
		if _, legacy := output(ctx, "iptables-legacy", args...); legacy != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
