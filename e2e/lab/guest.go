//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Limits that no machine comes near to, however busy.
const (
	bootLimit     = 2 * time.Minute  // until the job is begun
	powerOffLimit = 20 * time.Second // from its end to that of the guest
)

// A guest is the processes that a guest is made of, on the host.
type guest struct {
	main    *process   // the kernel
	servers []*process // of files; they end with the guest or are ended
}

// wait returns when nothing is left of the guest, with why it is to be blamed.
// It ends the guest when ctx ends, when it hangs before the job begins, and when
// it is still there after the result was told.
func (g *guest) wait(ctx context.Context, l *lines) error {
	err := g.watch(ctx, l)
	err = errors.Join(err, g.main.end())
	for _, s := range g.servers {
		s.end()
	}
	return err
}

func (g *guest) watch(ctx context.Context, l *lines) error {
	limit := time.NewTimer(bootLimit)
	defer limit.Stop()
	begun, told := l.begun, l.told
	for {
		select {
		case <-begun:
			begun = nil
			limit.Stop()
		case <-told:
			told = nil
			limit.Reset(powerOffLimit)
		case <-limit.C:
			if told == nil {
				return nil // it only does not know how to power off
			}
			return fmt.Errorf("the job has not begun after %v", bootLimit)
		case <-g.main.done:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// A process is a program of the host that takes all its children with it when
// it ends, and ends when this process does.
//
// It is process 1 of a PID namespace: the kernel of user-mode Linux keeps a
// process for each that the guest has, and they would outlive it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the program has been waited for
	err  error         // valid once done is closed
}

// start starts a program on a CPU; see stayOn. All that its settings leave open is
// taken care of.
func start(cmd *exec.Cmd, cpu int) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	cmd.WaitDelay = time.Second
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go p.run(cpu, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// run keeps the thread that has started the program: its end is what Pdeathsig
// is about.
func (p *process) run(cpu int, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	restore, err := stayOn(cpu)
	if err == nil {
		defer restore()
		err = p.cmd.Start()
	}
	started <- err
	if err == nil {
		p.err = p.cmd.Wait()
	}
}

// end kills what is still there and returns how the program ended by itself; nil
// if it did not, or ended well.
func (p *process) end() error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.cmd.Path, err)
	}
	<-p.done
	return nil
}
