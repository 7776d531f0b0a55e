//go:build linux

package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// spawner starts every child process of a cluster from one thread that lives as
// long as the cluster. Children ask the kernel to kill them when their parent
// *thread* ends (that is what PR_SET_PDEATHSIG means), so that none survives a
// test binary that is killed; a thread of the ordinary pool might end earlier.
type spawner struct {
	requests chan spawnRequest
	stop     chan struct{}
	done     chan struct{}
}

type spawnRequest struct {
	ns     *NS
	cmd    *exec.Cmd
	result chan error
}

func newSpawner() *spawner {
	s := &spawner{
		requests: make(chan spawnRequest),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
	}
	go s.run()
	return s
}

func (s *spawner) run() {
	defer close(s.done)
	runtime.LockOSThread() // for good: the thread ends with this goroutine
	for {
		select {
		case r := <-s.requests:
			r.result <- r.ns.visit(r.cmd.Start)
		case <-s.stop:
			return
		}
	}
}

func (s *spawner) start(ns *NS, cmd *exec.Cmd) error {
	r := spawnRequest{ns: ns, cmd: cmd, result: make(chan error)}
	select {
	case s.requests <- r:
		return <-r.result
	case <-s.done:
		return errClosed
	}
}

// close must be called once, after the children have ended.
func (s *spawner) close() {
	close(s.stop)
	<-s.done
}

// Process is a program running inside a namespace, in a process group of its
// own. It is killed when its namespace closes, when the context given to
// [NS.Command] ends, and when this process dies. Its output is kept in memory.
type Process struct {
	// Cmd may be changed (Env, Dir, Stdin) until Start; Stdout and Stderr are taken.
	Cmd *exec.Cmd

	ns             *NS
	disown         func()
	stdout, stderr capture
	both           capture
	done           chan struct{} // closed when the program has been waited for
	err            error         // of Cmd.Wait; valid once done is closed
}

// Command prepares a program to be run inside the namespace; Start runs it.
func (ns *NS) Command(ctx context.Context, name string, args ...string) *Process {
	p := &Process{Cmd: exec.CommandContext(ctx, name, args...), ns: ns, done: make(chan struct{})}
	p.both.changed = make(chan struct{})
	p.stdout.also, p.stderr.also = &p.both, &p.both
	p.Cmd.Stdout, p.Cmd.Stderr = &p.stdout, &p.stderr
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A grandchild that keeps the pipes open must not keep Wait from returning for good. Two seconds
	// were too short to read to the end where a guest shares its only CPU with a busy machine.
	p.Cmd.WaitDelay = 20 * time.Second
	return p
}

// Start runs the program. It may be called once.
func (p *Process) Start() error {
	disown, err := p.ns.own(p)
	if err != nil {
		return fmt.Errorf("start %s in %s: %w", p.Cmd.Path, p.ns.name, err)
	}
	p.disown = disown
	if err := p.ns.spawn.start(p.ns, p.Cmd); err != nil {
		disown()
		return fmt.Errorf("start %s in %s: %w", p.Cmd.Path, p.ns.name, err)
	}
	go p.reap()
	return nil
}

func (p *Process) reap() {
	p.err = p.Cmd.Wait()
	p.disown()
	close(p.done)
}

// Done is closed when the program has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the program to end and returns what [exec.Cmd.Wait] returned.
// It may be called any number of times, after Start.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Signal sends a signal to the program, not to its children. It returns
// [os.ErrProcessDone] if it has ended.
func (p *Process) Signal(s os.Signal) error { return p.Cmd.Process.Signal(s) }

// Kill ends the program at once, as a crash would (SIGKILL, children are left
// to themselves), and waits. A program that has ended already is not an error.
func (p *Process) Kill() error {
	if err := p.Signal(os.Kill); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Stop asks the program to end (SIGTERM) and returns what Wait returns. If it is
// still there after grace, its whole process group is killed and Stop says so.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(grace):
		return errors.Join(fmt.Errorf("%s ignored SIGTERM for %v", p.Cmd.Path, grace), p.Close())
	}
}

// Close kills the program and every process of its group, and waits for the
// program itself.
func (p *Process) Close() error {
	if p.Cmd.Process == nil {
		return nil // never started
	}
	err := syscall.Kill(-p.Cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.Cmd.Path, err)
	}
	return nil
}

// Output is what the program has written so far, both streams in the order in
// which they were read.
func (p *Process) Output() string { return p.both.String() }

// Stdout is what the program has written to standard output so far.
func (p *Process) Stdout() string { return p.stdout.String() }

// Stderr is what the program has written to standard error so far.
func (p *Process) Stderr() string { return p.stderr.String() }

// WaitOutput waits until the output contains text. It fails when the program or
// ctx ends before that.
func (p *Process) WaitOutput(ctx context.Context, text string) error {
	for {
		changed := p.both.next()
		if strings.Contains(p.both.String(), text) {
			return nil
		}
		select {
		case <-changed:
		case <-p.done:
			if strings.Contains(p.both.String(), text) {
				return nil
			}
			return fmt.Errorf("%s ended (%v) without writing %q: %s", p.Cmd.Path, p.err, text, p.Output())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to write %q: %w: %s", p.Cmd.Path, text, ctx.Err(), p.Output())
		}
	}
}

// capture is an io.Writer that can be read while it is written to.
type capture struct {
	also *capture // gets a copy

	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{} // closed and replaced at each write; nil if nobody asks
}

func (c *capture) Write(b []byte) (int, error) {
	if c.also != nil {
		c.also.Write(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed != nil {
		close(c.changed)
		c.changed = make(chan struct{})
	}
	return c.buf.Write(b)
}

func (c *capture) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *capture) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}
