//go:build linux

package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is one network namespace: a node, a pod, the router or the client.
// All methods may be called concurrently. After the cluster (or the pod) is
// closed they return errors.
type NS struct {
	name string
	path string
	// spawn starts child processes; see spawner.
	spawn *spawner

	mu     sync.RWMutex // guards fd and link against close, and owned
	fd     int          // the namespace itself; -1 when closed
	link   *netlink.Handle
	owned  map[io.Closer]struct{}
	closed bool
}

// errClosed is what every operation on a removed namespace returns.
var errClosed = errors.New("network namespace is closed")

// Usable reports why this process cannot make network namespaces, or nil if it
// can. Tests skip with this error as the reason.
func Usable() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("network namespaces need root, running as uid %d", os.Geteuid())
	}
	done := make(chan error)
	go func() { done <- inFreshNS(func() error { return nil }) }()
	if err := <-done; err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	return nil
}

// inFreshNS runs fn on this goroutine's thread in a new, nameless namespace.
// The thread is restored, not thrown away, for the reason given at spawner. If
// it cannot be restored it stays locked and dies with the goroutine, so the
// caller must be about to end.
func inFreshNS(fn func() error) (err error) {
	runtime.LockOSThread()
	origin, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the current namespace: %w", err)
	}
	defer origin.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("unshare: %w", err)
	}
	defer func() { err = errors.Join(err, leave(origin)) }()
	return fn()
}

// leave puts the locked thread back into origin and unlocks it, or leaves it
// locked if that fails.
func leave(origin *os.File) error {
	if err := unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("return to the original namespace: %w", err)
	}
	runtime.UnlockOSThread()
	return nil
}

// newNS makes the namespace and mounts it at dir/file. On error nothing is left.
func newNS(file, name string, spawn *spawner) (*NS, error) {
	ns := &NS{
		name: name, path: filepath.Join(runDir, file), spawn: spawn,
		fd: -1, owned: map[io.Closer]struct{}{},
	}
	if err := ns.mount(); err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	if err := ns.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open namespace %s: %w", name, err), ns.close())
	}
	return ns, nil
}

func (ns *NS) mount() error {
	// O_EXCL: the name is the claim, against other clusters of this process.
	f, err := os.OpenFile(ns.path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error)
	go func() {
		done <- inFreshNS(func() error {
			return unix.Mount("/proc/thread-self/ns/net", ns.path, "", unix.MS_BIND, "")
		})
	}()
	if err := <-done; err != nil {
		return errors.Join(err, os.Remove(ns.path))
	}
	return nil
}

func (ns *NS) open() error {
	fd, err := unix.Open(ns.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ns.fd = fd
	ns.link, err = netlink.NewHandleAt(vnetns.NsHandle(fd), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	return ns.Do(baseline)
}

// Name is the short name: "n1", "router", "client", or a pod's first address.
func (ns *NS) Name() string { return ns.name }

// Path is the file that holds the namespace open; its base name is what
// "ip netns exec" takes.
func (ns *NS) Path() string { return ns.path }

// Do runs fn on an operating-system thread that is inside the namespace, and
// returns its error. fn has a goroutine of its own, so it must not start
// goroutines that expect to be in the namespace too, and should not block for
// long, since it holds a thread. A thread that cannot be brought back is
// discarded. fn may call t.Fatal: the caller's goroutine then exits as well.
func (ns *NS) Do(fn func() error) error {
	var err error
	returned := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = ns.visit(func() error {
			ferr := fn()
			returned = true
			return ferr
		})
		returned = true
	}()
	<-done
	if !returned {
		runtime.Goexit()
	}
	return err
}

// visit is Do on the calling goroutine, which must end soon after an error.
func (ns *NS) visit(fn func() error) (err error) {
	runtime.LockOSThread()
	origin, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the current namespace: %w", err)
	}
	defer origin.Close()
	if err := ns.enter(); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter namespace %s: %w", ns.name, err)
	}
	defer func() { err = errors.Join(err, leave(origin)) }()
	return fn()
}

func (ns *NS) enter() error {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	if ns.fd < 0 {
		return errClosed
	}
	return unix.Setns(ns.fd, unix.CLONE_NEWNET)
}

// SetSysctl writes a sysctl of the namespace. The key is a path below /proc/sys
// with slashes, as in "net/ipv4/ip_forward", because interface names may contain
// dots.
func (ns *NS) SetSysctl(key, value string) error {
	return ns.Do(func() error { return setSysctl(key, value) })
}

// Sysctl reads a sysctl of the namespace, without the final newline.
func (ns *NS) Sysctl(key string) (string, error) {
	var value string
	err := ns.Do(func() error {
		b, err := os.ReadFile(filepath.Join("/proc/sys", key))
		value = strings.TrimSpace(string(b))
		return err
	})
	return value, err
}

// Output runs a program to its end inside the namespace and returns what it
// wrote to standard output. If it fails, the error contains its standard error.
func (ns *NS) Output(ctx context.Context, name string, args ...string) (string, error) {
	p := ns.Command(ctx, name, args...)
	if err := p.Start(); err != nil {
		return "", err
	}
	if err := p.Wait(); err != nil {
		return p.Stdout(), fmt.Errorf("%s %s in %s: %w: %s",
			name, strings.Join(args, " "), ns.name, err, strings.TrimSpace(p.Stderr()))
	}
	return p.Stdout(), nil
}

// own makes c end with the namespace. The function returned gives it up.
func (ns *NS) own(c io.Closer) (disown func(), err error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.closed {
		return nil, errClosed
	}
	ns.owned[c] = struct{}{}
	return func() {
		ns.mu.Lock()
		defer ns.mu.Unlock()
		delete(ns.owned, c)
	}, nil
}

// close ends what runs in the namespace and removes its name. The kernel frees
// the namespace itself shortly afterwards. Closing twice does nothing.
func (ns *NS) close() error {
	ns.mu.Lock()
	if ns.closed {
		ns.mu.Unlock()
		return nil
	}
	ns.closed = true
	owned := ns.owned
	ns.owned = map[io.Closer]struct{}{}
	ns.mu.Unlock()

	var errs []error
	for c := range owned {
		errs = append(errs, c.Close())
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.link != nil {
		ns.link.Close()
	}
	if ns.fd >= 0 {
		errs = append(errs, unix.Close(ns.fd))
		ns.fd = -1
	}
	return errors.Join(append(errs, removeName(ns.path))...)
}
