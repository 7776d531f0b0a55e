//go:build linux

// Package child runs the L7 process beside the one that programs the node: as another user, without the
// capabilities of its parent but the one to listen at ports below 1024, and again when it ends.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The pauses before a child that has ended is started again: doubled each time, until it has run for steady.
const (
	minPause = time.Second
	maxPause = 30 * time.Second
	steady   = time.Minute
)

// A Config says what to run.
type Config struct {
	Path     string   // of the program; required
	Args     []string // without the program's name
	Env      []string // nil: that of this process
	UID, GID uint32   // 0: those of this process, which keeps its capabilities then
	Out, Err io.Writer
	Log      *slog.Logger // required

	// Grace is how long the child may take to end after SIGTERM.
	Grace time.Duration

	// Notify, if not nil, is called with the process ID of a child that has been started, and with 0 when it has
	// ended.
	Notify func(pid int)
}

// Run runs the child until ctx is done and it has ended, and returns nil then. It returns an error if it cannot
// be started at all the first time.
func Run(ctx context.Context, c Config) error {
	pause := minPause
	for first := true; ; first = false {
		began := time.Now()
		err := once(ctx, c)
		if ctx.Err() != nil {
			return nil
		}
		var start *startError
		if first && errors.As(err, &start) {
			return err
		}
		if time.Since(began) >= steady {
			pause = minPause
		}
		c.Log.Error("the L7 process has ended and is started again", "err", err, "after", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// A startError says that there was no child.
type startError struct{ err error }

func (e *startError) Error() string { return fmt.Sprintf("start the L7 process: %v", e.err) }
func (e *startError) Unwrap() error { return e.err }

// once runs one child to its end. The thread that has started it stays, since its end would be the child's
// (PR_SET_PDEATHSIG).
func once(ctx context.Context, c Config) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = c.Env, c.Out, c.Err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = c.Grace
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if (c.UID != 0 || c.GID != 0) && (int(c.UID) != os.Getuid() || int(c.GID) != os.Getgid()) {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	}
	if err := cmd.Start(); err != nil {
		return &startError{err}
	}
	c.Log.Info("the L7 process runs", "pid", cmd.Process.Pid, "uid", c.UID)
	if c.Notify != nil {
		c.Notify(cmd.Process.Pid)
		defer c.Notify(0)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the L7 process: %w", err)
	}
	return nil
}
