package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestWatchAddrs follows real addresses, in a network namespace of its own.
func TestWatchAddrs(t *testing.T) {
	// The namespace ends with the thread, and the thread with this goroutine.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make network namespaces")
	} else if err != nil {
		t.Fatal(err)
	}
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	lo, err := kernel.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := kernel.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	before, err := readAddrs()
	if err != nil {
		t.Fatal(err)
	}
	if len(before.All) != 0 {
		t.Errorf("loopback addresses count as local ones: %v", before.All)
	}

	vip, err := netlink.ParseAddr("203.0.113.7/32")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var seen []localAddrs
	changed := func(a localAddrs) {
		if seen = append(seen, a); len(seen) == 2 {
			cancel()
			return
		}
		// The subscription is there, or this change would not have been seen.
		if err := kernel.AddrDel(lo, vip); err != nil {
			t.Error(err)
			cancel()
		}
	}
	// Before the subscription: what happens between must not be lost.
	if err := kernel.AddrAdd(lo, vip); err != nil {
		t.Fatal(err)
	}
	if err := watchAddrs(ctx, slog.New(slog.DiscardHandler), before, changed); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || !slices.Equal(seen[0].All, addrs("203.0.113.7")) || len(seen[1].All) != 0 {
		t.Errorf("seen: %v, want the address to come and go", seen)
	}
}

// TestAddrsOfTheVIPDevice makes sure that what is on kube-ipvs0 counts for
// nothing, neither at start nor later.
func TestAddrsOfTheVIPDevice(t *testing.T) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make network namespaces")
	} else if err != nil {
		t.Fatal(err)
	}
	kernel, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	add := func(link netlink.Link, addr string) {
		t.Helper()
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := kernel.AddrAdd(link, a); err != nil {
			t.Fatal(err)
		}
	}
	device := func(name string) netlink.Link {
		t.Helper()
		if err := kernel.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			t.Skip("needs dummy interfaces: ", err)
		}
		link, err := kernel.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	vips := device(vipDevice)
	add(vips, "10.96.0.1/32")
	add(vips, "fd00:10:96::1/128")
	eth := device("eth0")
	add(eth, "172.18.0.11/16")
	before, err := readAddrs()
	if err != nil {
		t.Fatal(err)
	}
	if want := addrs("172.18.0.11"); !slices.Equal(before.All, want) || before.Outward[0] != want[0] {
		t.Errorf("local addresses %v, outward %v, want only those of eth0: %v", before.All, before.Outward, want)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var seen []localAddrs
	changed := func(a localAddrs) {
		if seen = append(seen, a); len(seen) == 2 {
			cancel()
			return
		}
		add(vips, "10.96.0.2/32") // not to be heard of
		add(eth, "172.18.0.13/16")
	}
	add(eth, "172.18.0.12/16")
	if err := watchAddrs(ctx, slog.New(slog.DiscardHandler), before, changed); err != nil {
		t.Fatal(err)
	}
	want := addrs("172.18.0.11", "172.18.0.12", "172.18.0.13")
	if len(seen) != 2 || !slices.Equal(seen[0].All, want[:2]) || !slices.Equal(seen[1].All, want) {
		t.Errorf("seen: %v, want the addresses of eth0 come one by one: %v", seen, want)
	}
}
