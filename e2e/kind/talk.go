//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// A talk is conversations that go on while something changes under them.
type talk struct {
	*shell
	all []*talker
}

// A talker is one program that talks until its input ends.
type talker struct {
	what  string
	input io.Closer
	done  chan error
	out   *bytes.Buffer // to be read after done
}

// talk starts conversations over a cluster IP and a node port: some that last, and
// new ones all the time.
func (c *cluster) talk(ctx context.Context) (*talk, error) {
	web, err := c.clusterIPs(ctx, "web")
	if err != nil {
		return nil, err
	}
	pod, err := c.podOn(ctx, "web", controlPlane)
	if err != nil {
		return nil, err
	}
	t := &talk{shell: c.shell}
	for family, ip := range web {
		service, port := net.JoinHostPort(ip, "80"), net.JoinHostPort(c.addrs[worker][family], "30080")
		for _, verb := range []string{"hold", "again"} {
			t.start(ctx, pod, verb, "tcp", service)
			t.start(ctx, place{container: worker}, verb, "tcp", service)
			t.start(ctx, place{container: client}, verb, "tcp", port)
		}
	}
	select { // so that they talk when it begins
	case <-ctx.Done():
	case <-time.After(3 * time.Second):
	}
	return t, nil
}

func (t *talk) start(ctx context.Context, from place, args ...string) {
	cmd := command(ctx, from.command(args...))
	one := &talker{what: from.String() + ": " + strings.Join(args, " "), done: make(chan error, 1), out: &bytes.Buffer{}}
	cmd.Stdout, cmd.Stderr = one.out, one.out
	input, err := cmd.StdinPipe()
	if err != nil {
		one.done <- err
	}
	one.input = input
	t.all = append(t.all, one)
	go func() { one.done <- cmd.Run() }()
}

// end ends all of them, and fails if any answer was missing.
func (t *talk) end() error {
	var failed error
	for _, one := range t.all {
		one.input.Close()
		select {
		case err := <-one.done:
			last := one.out.String()[strings.LastIndex(strings.TrimSpace(one.out.String()), "\n")+1:]
			t.say("  %s: %s", one.what, strings.TrimSpace(last))
			if err != nil || strings.Contains(one.out.String(), "error:") {
				failed = errors.Join(failed, fmt.Errorf("%s: %w\n%s", one.what, errors.Join(errLost, err), one.out))
			}
		case <-time.After(time.Minute):
			failed = errors.Join(failed, fmt.Errorf("%s: does not end", one.what))
		}
	}
	return failed
}

// errLost says that an answer was missing.
var errLost = errors.New("answers were lost")
