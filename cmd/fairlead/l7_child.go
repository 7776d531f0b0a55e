package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/l7/child"
)

// l7ChildFlags are the flags of fairlead that run fairlead l7 beside it.
type l7ChildFlags struct {
	Enabled bool
	Args    []string
	User    string
}

func (f *l7ChildFlags) add(fs *pflag.FlagSet) {
	fs.BoolVar(&f.Enabled, "l7", false, "run fairlead l7 as well, as an unprivileged child, on a small node (not in kube-proxy)")
	fs.StringArrayVar(&f.Args, "l7-arg", nil, "argument for that, such as --l7-arg=--http-bind-address=:8080; may be given more than once (not in kube-proxy)")
	fs.StringVar(&f.User, "l7-user", "65532:65532", "numeric user and group of the child; 0:0 leaves it ours (not in kube-proxy)")
}

// user parses UID:GID.
func (f *l7ChildFlags) user() (uid, gid uint32, err error) {
	u, g, _ := strings.Cut(f.User, ":")
	n, err1 := strconv.ParseUint(u, 10, 32)
	m, err2 := strconv.ParseUint(g, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("--l7-user: %q is not UID:GID: %w", f.User, err)
	}
	return uint32(n), uint32(m), nil
}

// childGrace is how long the child may take to send its clients elsewhere: what fairlead l7 takes by its own defaults.
const childGrace = 250 * time.Second

// child returns the task that runs fairlead l7.
func (p *process) child(name string) (func(context.Context) error, error) {
	f := &p.flags.L7
	uid, gid, err := f.user()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("--l7: find our own program: %w", err)
	}
	args := []string{"l7", "--hostname-override=" + name, "--v=" + strconv.Itoa(p.flags.Verbosity)}
	for flag, value := range map[string]string{"kubeconfig": p.flags.Kubeconfig, "master": p.flags.Master, "manifests": p.flags.Manifests} {
		if value != "" {
			args = append(args, "--"+flag+"="+value)
		}
	}
	c := child.Config{Path: self, Args: append(args, f.Args...), UID: uid, GID: gid, Out: os.Stdout, Err: os.Stderr, Log: p.log, Grace: childGrace, Notify: p.teller.book.SetL7}
	return func(ctx context.Context) error { return child.Run(ctx, c) }, nil
}
