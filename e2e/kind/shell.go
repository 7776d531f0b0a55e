//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A shell runs programs and tells what it does.
type shell struct {
	out   io.Writer
	gocmd string // the go command
}

func (s *shell) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%s "+format+"\n", append([]any{time.Now().UTC().Format(time.TimeOnly)}, args...)...)
}

// run runs a program, which may write to where this tells what it does.
func (s *shell) run(ctx context.Context, args ...string) error {
	cmd := command(ctx, args)
	cmd.Stdout, cmd.Stderr = s.out, s.out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// output returns what a program printed, trimmed.
func (s *shell) output(ctx context.Context, args ...string) (string, error) {
	return s.input(ctx, "", args...)
}

// input is output of a program that reads text.
func (s *shell) input(ctx context.Context, text string, args ...string) (string, error) {
	cmd := command(ctx, args)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, &errs
	if err := cmd.Run(); err != nil {
		return strings.TrimSpace(out.String()), fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, tail(errs.String(), 1500))
	}
	return strings.TrimSpace(out.String()), nil
}

// command ends what it started with an interrupt, so that it can say goodbye.
func command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func tail(text string, n int) string {
	return text[max(0, len(text)-n):]
}

// eventually runs a check until it holds. Its bound is for a machine that is busy
// with something else; what is tested is that it happens at all.
func eventually(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(err, ctx.Err()))
		case <-time.After(time.Second):
		}
	}
}
