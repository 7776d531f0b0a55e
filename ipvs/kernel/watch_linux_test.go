package kernel

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// watch runs Watch in the namespace of the test, and returns the channel that
// gets a value when changed was called since the last one was taken.
func watch(t *testing.T, l *Linux) <-chan struct{} {
	t.Helper()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := netns.Set(here); err != nil {
			t.Error(err)
			return
		}
		err := l.Watch(ctx, "kube-ipvs0", 17996, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
		if err := here.Close(); err != nil {
			t.Error(err)
		}
	})
	return heard
}

// TestLinuxWatch makes changes that are ours and changes that are not. The ones
// that are not come first in each step, so that hearing of them would show: the
// test waits for the kernel's word on each.
func TestLinuxWatch(t *testing.T) {
	l := newLinux(t)
	must(t, l, NewDevice{"other0"})
	heard := watch(t, l)
	expect := func(what string) {
		t.Helper()
		select {
		case <-heard:
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing heard of %s", what)
		}
	}
	expect("the subscription")
	v4, v6 := netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1")
	for _, op := range []Op{
		NewDevice{"kube-ipvs0"},
		AddAddr{"kube-ipvs0", v4, false},
		AddAddr{"kube-ipvs0", v6, false},
		DelAddr{"kube-ipvs0", v6},
		DelRoute{unix.RT_TABLE_LOCAL, netip.PrefixFrom(v4, 32)}, // over lo: nothing, see below
		AddRoute{17996, netip.PrefixFrom(v4, 32)},
		AddRoute{17996, netip.PrefixFrom(v6, 128)},
		DelRoute{17996, netip.PrefixFrom(v4, 32)},
		AddRule{Rule{service.IPv4, 90, 0x8000, 0x8000, 17996}},
		AddRule{Rule{service.IPv6, 90, 0x8000, 0x8000, 17996}},
		DelRule{Rule{service.IPv4, 90, 0x8000, 0x8000, 17996}},
		DelDevice{"kube-ipvs0"},
		NewDevice{"kube-ipvs0"},
		AddAddr{"kube-ipvs0", v4, true},
	} {
		must(t, l, op)
		if _, nothing := op.(DelRoute); nothing && op.(DelRoute).Table == unix.RT_TABLE_LOCAL {
			continue
		}
		expect(op.String())
		quiet(heard)
	}
	// By others, with the means of others.
	dev, err := netlink.LinkByName("kube-ipvs0")
	if err == nil {
		err = netlink.LinkSetUp(dev)
	}
	if err != nil {
		t.Fatal(err)
	}
	expect("the device going up")
	quiet(heard)

	must(t, l,
		AddAddr{"other0", netip.MustParseAddr("10.97.0.1"), true},
		AddRoute{17997, netip.MustParsePrefix("10.97.0.1/32")},
		AddRule{Rule{service.IPv4, 91, 0x8000, 0x8000, 17997}},
		DelDevice{"other0"})
	select {
	case <-heard:
		t.Error("heard of what is not ours")
	case <-time.After(200 * time.Millisecond):
	}
}

// quiet waits until nothing was heard for a while: one change has several
// messages, some of them from a work queue of the kernel.
func quiet(heard <-chan struct{}) {
	for {
		select {
		case <-heard:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}

// TestLinuxWatchReconnect closes the socket under Watch.
func TestLinuxWatchReconnect(t *testing.T) {
	l := newLinux(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	w := &watcher{device: "kube-ipvs0", table: 17996, changed: func() { calls++ }, buf: make([]byte, 64<<10)}
	file, err := w.subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	w.follow(ctx, file) // returns
	if file, err = w.subscribe(ctx); err != nil {
		t.Fatal(err)
	}
	must(t, l, NewDevice{"kube-ipvs0"})
	w.changed = func() { calls++; cancel() }
	w.follow(ctx, file)
	if calls != 1 || w.index == 0 {
		t.Errorf("got %d calls, index %d; want one, of the new device", calls, w.index)
	}
}

// TestLinuxWatchOverrun has more announced than the socket can hold.
func TestLinuxWatchOverrun(t *testing.T) {
	l := newLinux(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calls := 0
	w := &watcher{device: "kube-ipvs0", table: 17996, buf: make([]byte, 64<<10)}
	w.changed = func() {
		calls++
		cancel() // deadlines end reading only when there is nothing left to read
	}
	file, err := w.subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := file.SyscallConn(); err != nil {
		t.Fatal(err)
	} else if err := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 200 { // not ours
		must(t, l, AddRoute{17997, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 97, 0, byte(i)}), 32)})
	}
	w.follow(ctx, file)
	if calls == 0 {
		t.Error("lost messages were not noticed")
	}
}
