//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// Names of what is compared as reverse proxies.
const (
	fairleadL7Name  = "fairlead l7"
	fairleadStdName = "fairlead l7, net/http"
	nginxName       = "nginx"
	nginxTunedName  = "nginx, tuned"
	haproxyL7Name   = "HAProxy"
	haproxyLogged   = "option httplog\n  log global"
)

// l7Rival is a reverse proxy. It runs twice: with few hosts, and with many.
type l7Rival struct {
	name    string
	program string
	config  func(a *l7Arena, p *l7Process) ([]string, error) // writes its files, returns its arguments
	base    uint16                                           // of its ports
	wait    string                                           // what it says when it is ready
	few     bool                                             // hosts make no difference to it that another does not show
	running map[bool]*l7Process                              // by whether there are many hosts
}

// l7ReadyWithin is the time given to a proxy to read its configuration: nginx takes a while for many hosts.
const l7ReadyWithin = time.Minute

// takes reports whether a scenario is for a rival.
func (r *l7Rival) takes(s l7Scenario) bool { return !s.many || !r.few }

// l7Process is one that runs.
type l7Process struct {
	process             *netns.Process
	dir                 string
	hosts               []string
	addr                netip.Addr
	http, tls, metrics  uint16
	accessLog, profiled bool
}

func (p *l7Process) pid() int     { return p.process.Cmd.Process.Pid }
func (p *l7Process) ended() error { return (&running{process: p.process}).ended() }

func (p *l7Process) target(s l7Scenario) netip.AddrPort {
	if s.tls {
		return netip.AddrPortFrom(p.addr, p.tls)
	}
	return netip.AddrPortFrom(p.addr, p.http)
}

// l7Rivals finds the programs.
func l7Rivals(o options) ([]*l7Rival, error) {
	fairlead, err := filepath.Abs(o.fairlead)
	if o.fairlead == "" {
		return nil, errors.New("-fairlead is missing")
	}
	if err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for _, name := range []string{o.nginx, o.haproxy, o.wrk, "curl"} {
		if paths[name], err = exec.LookPath(name); err != nil {
			return nil, fmt.Errorf("%s is missing: %w (Debian and Ubuntu: apt-get install nginx-light haproxy wrk curl; they need not be started)", name, err)
		}
	}
	list := []*l7Rival{
		{name: fairleadL7Name, program: fairlead, config: fairleadL7, wait: "everything is in force"},
		{name: nginxName, program: paths[o.nginx], config: nginxPlain},
		{name: nginxTunedName, program: paths[o.nginx], config: nginxTuned, few: true},
		{name: haproxyL7Name, program: paths[o.haproxy], config: haproxyL7},
	}
	if o.std {
		list = append(list, &l7Rival{name: fairleadStdName, program: fairlead, config: fairleadStd, wait: list[0].wait, few: true})
	}
	for i, r := range list {
		r.base, r.running = uint16(8000+100*i), map[bool]*l7Process{}
	}
	return list, nil
}

// enter starts a rival and waits until it answers.
func (c *l7Contest) enter(ctx context.Context, r *l7Rival) error {
	for _, s := range l7Scenarios() {
		if !r.takes(s) || !slices.Contains(c.options.chosen(), s.key) {
			continue
		}
		if r.running[s.many] == nil {
			if err := c.launch(ctx, r, s.many); err != nil {
				return err
			}
		}
		if err := c.await(ctx, r, s); err != nil {
			return fmt.Errorf("%s: %w", s.key, errors.Join(err, r.running[s.many].ended()))
		}
	}
	return nil
}

func (c *l7Contest) launch(ctx context.Context, r *l7Rival, many bool) error {
	o := c.options
	p := &l7Process{
		addr: c.arena.node.Primary.V4, http: r.base, tls: r.base + 1, metrics: r.base + 2,
		accessLog: o.accessLog, profiled: o.profile != "", hosts: []string{l7PlainHost, l7TLSHost},
		dir: filepath.Join(c.arena.dir, fmt.Sprintf("%d-%t", r.base, many)),
	}
	if many {
		p.http, p.tls, p.metrics = r.base+10, r.base+11, r.base+12
		for i := range o.routes {
			p.hosts = append(p.hosts, l7Host(i))
		}
	}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return err
	}
	args, err := r.config(c.arena, p)
	if err != nil {
		return err
	}
	if p.process, err = c.arena.start(ctx, r.program, args...); err != nil {
		return err
	}
	r.running[many] = p
	if r.wait == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return p.process.WaitOutput(ctx, r.wait)
}

// await waits until curl gets what it should.
func (c *l7Contest) await(ctx context.Context, r *l7Rival, s l7Scenario) error {
	p := r.running[s.many]
	host, scheme := l7PlainHost, "http"
	if s.tls {
		host, scheme = l7TLSHost, "https"
	}
	if s.many {
		host = l7Host(c.options.routes - 1)
	}
	to := p.target(s)
	for deadline := time.Now().Add(l7ReadyWithin); ; {
		out, err := c.arena.cluster.Client.Output(ctx, "curl", "-sSfk", "--max-time", "2", "-o", "/dev/null", "-w", "%{size_download}",
			"--resolve", fmt.Sprintf("%s:%d:%s", host, to.Port(), to.Addr()), fmt.Sprintf("%s://%s:%d%s", scheme, host, to.Port(), s.path))
		if err == nil && out == fmt.Sprint(s.body) {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil || p.ended() != nil {
			return errors.Join(fmt.Errorf("no answer, but %q", out), err, context.Cause(ctx))
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// version is what the program says about itself.
func (r *l7Rival) version(ctx context.Context) string {
	flag := "-v"
	if strings.HasPrefix(r.name, fairleadL7Name) {
		flag = "--version"
	}
	out, err := exec.CommandContext(ctx, r.program, flag).CombinedOutput()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	line, _, _ = strings.Cut(line, " - http")
	return strings.TrimSpace(line)
}
