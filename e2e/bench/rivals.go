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
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
	"github.com/fairlead-project/fairlead/e2e/netns"
)

// Names of what is compared on the data path.
const (
	userspaceName   = "fairlead userspace"
	haproxyName     = "HAProxy"
	trackedName     = "HAProxy, tracked"
	transparentName = "HAProxy, transparent"
	iptablesName    = "fairlead iptables"
	beforeName      = "fairlead userspace, before" // -before
)

// rival is a way for packets to get from a client to an endpoint.
type rival struct {
	name    string
	program string
	start   func(ctx context.Context, a *arena, program string) error
	own     bool // it listens at addresses of its own, which pods use too
	arena   *arena
}

// scenario is who calls a Service with how many endpoints.
type scenario struct {
	pod       bool
	endpoints int
}

func (s scenario) String() string {
	who, what := "client outside", "endpoints"
	if s.pod {
		who = "client pod"
	}
	if s.endpoints == 1 {
		what = "endpoint"
	}
	return fmt.Sprintf("%s, %d %s", who, s.endpoints, what)
}

func scenarios() []scenario {
	return []scenario{{false, 1}, {false, arenaPods}, {true, 1}, {true, arenaPods}}
}

func clusterIP(endpoints int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96, 0, byte(10 + endpoints)})
}
func externalIP(endpoints int) netip.Addr {
	return netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + endpoints)})
}

// target is where a scenario's client goes to.
func (r *rival) target(s scenario, k load.Kind) netip.AddrPort {
	a := externalIP(s.endpoints)
	if s.pod && !r.own {
		a = clusterIP(s.endpoints)
	}
	return netip.AddrPortFrom(a, pingPort+uint16(k))
}

func (r *rival) client(s scenario) *netns.NS {
	if s.pod {
		return r.arena.caller.NS
	}
	return r.arena.cluster.Client
}

// rivals finds the programs.
func rivals(ctx context.Context, o options, dir string) ([]*rival, error) {
	fairlead, err := filepath.Abs(o.fairlead)
	if o.fairlead == "" {
		fairlead, err = buildFairlead(ctx, dir)
	}
	if err != nil {
		return nil, err
	}
	haproxy, err := exec.LookPath(o.haproxy)
	if err != nil {
		return nil, fmt.Errorf("HAProxy is missing, which this compares with: %w (Debian and Ubuntu: apt-get install haproxy; or -haproxy PATH)", err)
	}
	list := []*rival{
		{name: userspaceName, program: fairlead, start: startServices("userspace")},
		{name: haproxyName, program: haproxy, start: startHAProxy, own: true},
		{name: trackedName, program: haproxy, start: startTracked, own: true},
		{name: transparentName, program: haproxy, start: startTransparent, own: true},
		{name: iptablesName, program: fairlead, start: startServices("iptables")},
	}
	if o.before != "" {
		before, err := filepath.Abs(o.before)
		if err != nil {
			return nil, err
		}
		list = append(list, &rival{name: beforeName, program: before, start: startServices("userspace")})
	}
	return list, nil
}

func loadPorts() []arenaPort {
	var ports []arenaPort
	for _, k := range pathLoads() {
		ports = append(ports, arenaPort{k.String(), "TCP", pingPort + uint16(k)})
	}
	return ports
}

func startServices(mode string) func(context.Context, *arena, string) error {
	return func(ctx context.Context, a *arena, program string) error {
		for _, n := range []int{1, arenaPods} {
			s := arenaService{
				name: fmt.Sprintf("of-%d", n), cluster: clusterIP(n), external: externalIP(n),
				ports: loadPorts(), ready: a.podAddrs(n),
			}
			if err := a.put(s); err != nil {
				return err
			}
		}
		return a.startFairlead(ctx, program, mode)
	}
}

// haproxyConfig is HAProxy at its defaults, with a thread for each CPU as fairlead
// has, and with splice. The pipes are as large as fairlead's.
// Servers may have more said about them.
func haproxyConfig(pods []netip.Addr, more string) string {
	var b strings.Builder
	b.WriteString(`global
  maxconn 4000
  tune.pipesize 1048576
defaults
  mode tcp
  balance roundrobin
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option splice-auto
  option splice-request
  option splice-response
`)
	for _, n := range []int{1, arenaPods} {
		for _, p := range loadPorts() {
			fmt.Fprintf(&b, "listen %s-%d\n  bind %s:%d\n", p.name, n, externalIP(n), p.number)
			for i, pod := range pods[:n] {
				fmt.Fprintf(&b, "  server s%d %s:%d%s\n", i, pod, p.number, more)
			}
		}
	}
	return b.String()
}

func startHAProxy(ctx context.Context, a *arena, program string) error {
	return startWith(ctx, a, program, "")
}

func startWith(ctx context.Context, a *arena, program, more string) error {
	for _, n := range []int{1, arenaPods} {
		if err := a.node.AddAddr("lo", netip.PrefixFrom(externalIP(n), 32)); err != nil {
			return err
		}
	}
	file := filepath.Join(a.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(haproxyConfig(a.podAddrs(arenaPods), more)), 0o644); err != nil {
		return err
	}
	return a.start(ctx, program, "-db", "-f", file)
}

// startTracked is startHAProxy on a node that tracks connections, as every node does
// that has Services or network policies: HAProxy alone would not have to pay for it.
func startTracked(ctx context.Context, a *arena, program string) error {
	_, err := a.node.Output(ctx, nft.multi(), "iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
	if err != nil {
		return err
	}
	return startHAProxy(ctx, a, program)
}

// startTransparent is HAProxy that calls endpoints from the address of its client, as
// fairlead does for pods, with the rules its manual gives to have the answers come back.
func startTransparent(ctx context.Context, a *arena, program string) error {
	for _, command := range [][]string{
		{nft.multi(), "iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"},
		{nft.multi(), "iptables", "-t", "mangle", "-A", "PREROUTING", "-p", "tcp", "-m", "socket", "--transparent", "-j", "MARK", "--set-mark", "1"},
		{"ip", "rule", "add", "fwmark", "1", "lookup", "100"},
		{"ip", "route", "add", "local", "default", "dev", "lo", "table", "100"},
	} {
		if _, err := a.node.Output(ctx, command[0], command[1:]...); err != nil {
			return err
		}
	}
	return startWith(ctx, a, program, " source 0.0.0.0 usesrc clientip")
}

// enter builds the rival's arena, starts it, and waits until everything answers.
func (r *rival) enter(ctx context.Context) (err error) {
	if r.arena, err = newArena(); err != nil {
		return err
	}
	if err := r.start(ctx, r.arena, r.program); err != nil {
		return fmt.Errorf("start %s: %w", r.name, err)
	}
	for _, s := range scenarios() {
		for _, k := range pathLoads() {
			if err := r.await(ctx, s, k); err != nil {
				return fmt.Errorf("%s, %v, %v: %w", r.name, s, k, errors.Join(err, r.arena.ended()))
			}
		}
	}
	return nil
}

func (r *rival) await(ctx context.Context, s scenario, k load.Kind) error {
	l := load.Load{Kind: k, Target: r.target(s, k), Conns: 1, Duration: 20 * time.Millisecond, Patience: time.Second}
	for deadline := time.Now().Add(readyWithin); ; {
		got, err := r.apply(ctx, s, l, nil)
		if err == nil && got.Failed == 0 && got.Operations > 0 {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil || r.arena.ended() != nil {
			return errors.Join(errors.New("no answer"), err, got.FirstError, context.Cause(ctx))
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// apply makes a load as the client of a scenario.
func (r *rival) apply(ctx context.Context, s scenario, l load.Load, mark func() error) (got load.Result, err error) {
	err = r.client(s).Do(func() (err error) {
		got, err = l.Run(ctx, mark)
		return err
	})
	return got, err
}

func (r *rival) leave() error {
	if r.arena == nil {
		return nil
	}
	return r.arena.close()
}

// version is the first line of what the program says about itself, without the
// address of a home page.
func (r *rival) version(ctx context.Context) string {
	flag := "--version"
	if r.own {
		flag = "-v"
	}
	out, err := exec.CommandContext(ctx, r.program, flag).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	line, _, _ = strings.Cut(line, " - http")
	return strings.TrimSpace(line)
}
