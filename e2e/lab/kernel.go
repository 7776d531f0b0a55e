//go:build linux

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// A Kernel is one that jobs can be run on. The functions that find one make
// sure that all it takes is there. Methods may be called concurrently; each
// Run is a guest of its own.
type Kernel struct {
	// Name says which it is, in few letters: "uml", "qemu-6.1".
	Name string
	// Slow means that code runs ten times slower than on the host, or worse.
	Slow bool

	modules string // on the host, a folder named after the release is in it
	boot    func(context.Context, *box, *lines) (*guest, error)
	output  string // names of the serial lines in the guest
	result  string
}

// A Job is a program to be run in a guest, as root.
type Job struct {
	Path string   // required: absolute, as the host knows it
	Args []string // without the name of the program
	// Env is the whole environment; nil means that of this process. TMPDIR is left
	// out, the usual folders are added to PATH, and [Inside] is set.
	Env []string
	Dir string // to start in; empty means /
	// Share lists files and folders below /tmp, /var/tmp or /run that the guest is
	// to see at the same path. Folders can be written to as any other, files
	// cannot. Path and Dir need not be repeated.
	Share []string
	// Timeout ends a guest that hangs. 0 leaves that to the context.
	Timeout time.Duration
	// Memory of the guest in MiB; what it writes to files takes from it too. 0 means 2048.
	Memory int
	// CPU is the one of the host that a guest with one CPU stays on, counted from 1;
	// it is three times as fast there. Guests at the same time should have
	// different ones. 0 leaves it to the host. QEMU takes no notice.
	CPU int
	// Output gets both output streams of the program, a line per Write; nil
	// discards them. The program must have ended its last line to have it seen.
	Output io.Writer
	// Input makes the job an interactive one: Input is what is typed, and Output
	// gets what a terminal should show, as it comes.
	Input io.Reader
}

// A GuestError is a guest that ended, or was ended, before it could tell the
// exit code of its job.
type GuestError struct {
	Kernel  string
	Cause   error  // of the context, or of the process that was the guest
	Console string // the last lines of it
}

func (e *GuestError) Error() string {
	return fmt.Sprintf("kernel %s: the job did not end: %v; the last of the console:\n%s", e.Kernel, e.Cause, e.Console)
}

func (e *GuestError) Unwrap() error { return e.Cause }

// Run boots the kernel, runs the job and returns its exit code; 128+n if signal
// n ended it. When Run returns, the guest has gone and its temporary files too.
// The error is a [GuestError] if the guest was started.
func (k *Kernel) Run(ctx context.Context, j Job) (code int, err error) {
	if j.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, j.Timeout, fmt.Errorf("the job took longer than %v", j.Timeout))
		defer cancel()
	}
	j.Memory = cmp.Or(j.Memory, 2048)
	b, err := newBox(k, &j)
	if err != nil {
		return -1, fmt.Errorf("prepare a job for %s: %w", k.Name, err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	l, err := newLines(&j)
	if err != nil {
		return -1, fmt.Errorf("prepare a job for %s: %w", k.Name, err)
	}
	defer l.close()
	g, err := k.boot(ctx, b, l)
	if err != nil {
		return -1, fmt.Errorf("start %s: %w", k.Name, errors.Join(context.Cause(ctx), err))
	}
	l.begin()
	err = g.wait(ctx, l)
	code, ok := l.exitCode()
	if ok && ctx.Err() == nil {
		return code, nil
	}
	cause := cmp.Or(context.Cause(ctx), err, errors.New("the guest went down"))
	return -1, &GuestError{Kernel: k.Name, Cause: cause, Console: l.console.tail()}
}

// Release is the kernel's version, such as "6.1.0-50-cloud-amd64".
func (k *Kernel) Release() string {
	found, err := filepath.Glob(filepath.Join(k.modules, "[0-9]*"))
	if err != nil || len(found) == 0 {
		return "unknown"
	}
	return filepath.Base(found[len(found)-1])
}

// require returns an error that names the packages of the programs that are not
// installed. Keys are programs.
func require(packages map[string]string) error {
	var errs []error
	if runtime.GOARCH != "amd64" {
		errs = append(errs, fmt.Errorf("guests are for amd64, this is %s", runtime.GOARCH))
	}
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("guests see all of the host, which needs root"))
	}
	for program, pkg := range packages {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, fmt.Errorf("%w: install the package %s", err, pkg))
		}
	}
	return errors.Join(errs...)
}
