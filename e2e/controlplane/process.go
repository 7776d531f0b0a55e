//go:build linux

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	pollInterval = 50 * time.Millisecond // between two questions to a program that is starting
	pollTimeout  = 5 * time.Second       // for one such question
	logQuote     = 30                    // lines of a log to quote in an error
)

// A process is one running child and the file it logs to.
type process struct {
	name string
	log  string // path
	cmd  *exec.Cmd
	done chan struct{} // closed when the child has been reaped
	err  error         // how it ended; read only after done
}

// start runs a program from t, appending its output to <dir>/<name>.log. The
// child gets no environment of ours: proxy settings and ETCD_* variables would
// change what it does.
func (t *thread) start(dir, name, path string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close()
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir = dir
	p.cmd.Env = []string{"HOME=" + dir, "TMPDIR=" + dir}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // Ctrl-C is for the test, which then stops us in order
	}
	t.do(func() { err = p.cmd.Start() })
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.reap()
	return p, nil
}

func (p *process) reap() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// stop asks the process to end, insists after grace, and returns when it is
// gone. A process that had ended by itself is an error that quotes its log.
func (p *process) stop(grace time.Duration) error {
	select {
	case <-p.done:
		return p.failed("run", p.exit())
	default:
	}
	// Either signal fails only if the process has just ended, which is the aim.
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return nil
}

// await calls ok until it returns nil. It gives up when the process ends or ctx
// does, with an error that quotes the log.
func (p *process) await(ctx context.Context, what string, ok func(context.Context) error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := try(ctx, ok)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.failed(what, p.exit())
		case <-ctx.Done():
			return p.failed(what, errors.Join(context.Cause(ctx), err))
		case <-tick.C:
		}
	}
}

func try(ctx context.Context, ok func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	return ok(ctx)
}

// exit says how the process ended; call it only after done.
func (p *process) exit() error {
	if p.err == nil {
		return errors.New("it exited with status 0")
	}
	return fmt.Errorf("it ended: %w", p.err)
}

// failed wraps err with what was being done and the end of the log.
func (p *process) failed(what string, err error) error {
	data, readErr := os.ReadFile(p.log)
	if readErr != nil {
		return fmt.Errorf("%s %s: %w", what, p.name, errors.Join(err, readErr))
	}
	return fmt.Errorf("%s %s: %w\nthe log ends:\n%s", what, p.name, err, lastLines(string(data), logQuote))
}

// lastLines returns at most the last n lines of s, indented.
func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	lines = lines[max(0, len(lines)-n):]
	return "\t" + strings.Join(lines, "\n\t")
}
