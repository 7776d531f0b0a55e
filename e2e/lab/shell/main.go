//go:build linux

// Command shell runs a command, or an interactive shell, on a kernel that has
// IPVS; see package lab for what the guest is like.
//
//	shell [-kernel uml|qemu|qemu-newest] [-memory MiB] [-timeout 10m] [-share PATH]... [COMMAND]
//
// The exit code is that of the command, 125 if there is no such kernel or it
// went down.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/e2e/lab"
)

// noGuest is the exit code for what is not the command's, as of env and docker.
const noGuest = 125

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		code = noGuest
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	flags := flag.NewFlagSet("shell", flag.ExitOnError)
	name := flags.String("kernel", "uml", "`name` of the kernel: "+strings.Join(lab.Names(), ", "))
	j := lab.Job{Path: "/bin/bash", CPU: 1, Output: os.Stdout}
	flags.IntVar(&j.Memory, "memory", 2048, "of the guest, in `MiB`")
	flags.DurationVar(&j.Timeout, "timeout", 0, "after which the guest is ended; 0 is never")
	flags.Func("share", "a `path` below /tmp, /var/tmp or /run that the guest is to see; may be repeated", func(p string) error {
		j.Share = append(j.Share, p)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return 0, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	begin := time.Now()
	k, err := lab.Find(ctx, *name)
	if err != nil {
		return 0, err
	}
	if j.Dir, err = os.Getwd(); err != nil {
		return 0, err
	}
	if command := strings.Join(flags.Args(), " "); command != "" {
		j.Args = []string{"-c", command}
		return k.Run(ctx, j)
	}
	fmt.Fprintf(os.Stderr, "lab: kernel %s, found in %.1f s; what you write to files is gone when you leave\n",
		k.Release(), time.Since(begin).Seconds())
	return interact(ctx, k, j)
}

// interact runs the job on this terminal.
func interact(ctx context.Context, k *lab.Kernel, j lab.Job) (int, error) {
	j.Input = os.Stdin
	if size, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ); err == nil && size.Row > 0 {
		j.Args = []string{"-c", fmt.Sprintf("stty rows %d cols %d; exec /bin/bash", size.Row, size.Col)}
	}
	restore, err := rawTerminal(int(os.Stdin.Fd()))
	if err != nil {
		j.Input = io.MultiReader(os.Stdin, strings.NewReader("\x04")) // what a terminal has for the end of a file
		return k.Run(ctx, j)
	}
	defer restore()
	return k.Run(ctx, j)
}

// rawTerminal passes every key on, and returns how to undo that. It fails if fd
// is no terminal.
func rawTerminal(fd int) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read terminal settings: %w", err)
	}
	raw := *old
	raw.Iflag &^= unix.ICRNL | unix.IXON | unix.BRKINT | unix.INPCK | unix.ISTRIP
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("change terminal settings: %w", err)
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}
