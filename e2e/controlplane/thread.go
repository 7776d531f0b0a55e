//go:build linux

package controlplane

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A thread is one OS thread, perhaps in another network namespace, that starts
// child processes and outlives them.
//
// Both halves matter. A child inherits the namespace of the thread that forks
// it. And PR_SET_PDEATHSIG, which takes the children down with a test binary
// that panics or times out, fires when the forking *thread* ends: on a thread
// that the Go runtime is free to end, it would fire at random.
type thread struct {
	calls chan func()
	done  chan struct{}
}

// startThread returns a thread in the network namespace at path, or in that of
// the process when path is empty. The caller must close it.
func startThread(path string) (*thread, error) {
	t := &thread{calls: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go t.run(path, ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return t, nil
}

// run never unlocks the OS thread, so the runtime destroys it on return instead
// of reusing it in the wrong namespace.
func (t *thread) run(path string, ready chan<- error) {
	defer close(t.done)
	runtime.LockOSThread()
	err := enterNetNS(path)
	ready <- err
	if err != nil {
		return
	}
	for f := range t.calls {
		f()
	}
}

// do runs f on the thread and returns when f has. It must not be called after
// close.
func (t *thread) do(f func()) {
	ran := make(chan struct{})
	t.calls <- func() {
		defer close(ran)
		f()
	}
	<-ran
}

// close ends the thread, which kills whatever it started that still runs.
func (t *thread) close() {
	close(t.calls)
	<-t.done
}

// enterNetNS moves the calling OS thread, which must be locked, into the network
// namespace at path. Empty means stay.
func enterNetNS(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}

// dialIn returns a dial function for numeric addresses in the network namespace
// at path. A socket stays in the namespace it was made in, so the connection can
// be used from any thread.
func dialIn(path string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		t, err := startThread(path)
		if err != nil {
			return nil, err
		}
		defer t.close()
		t.do(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, address) })
		return conn, err
	}
}
