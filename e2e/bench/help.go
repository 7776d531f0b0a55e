//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// lateError is a cold start that was not over when its time was.
type lateError struct{ text string }

func (e *lateError) Error() string { return e.text }

// startIPVS is coldStartIPVS, but a proxy that is late need not be the end of the
// trial: the slowest part of its work is done for it.
func (t *trial) startIPVS(ctx context.Context) error {
	err := t.coldStartIPVS(ctx)
	var late *lateError
	if !errors.As(err, &late) || t.subject.help == nil || t.run.ended() != nil {
		return err
	}
	t.out.problem(fmt.Errorf("cold start: %w. For the figures after that, its ipsets were filled for it and it was started again", late))
	t.log.Warn("late; helping", "err", late)
	if err := t.kill(); err != nil {
		return err
	}
	if err := t.network.restoreSets(ctx, t.subject.help(t.spec)); err != nil {
		return err
	}
	if t.run, err = t.start(ctx, t.shim); err != nil {
		return err
	}
	return t.reachable(ctx)
}

// reachable waits until Services answer to pods and to the node, without taking
// the time.
func (t *trial) reachable(ctx context.Context) error {
	pods, node := arrival{name: "pods"}, arrival{name: "the node"}
	var all sync.WaitGroup
	all.Go(func() { pods.at, pods.err = t.coldWatcher().run(ctx, t.network.pod.NS) })
	all.Go(func() { node.at, node.err = t.coldWatcher().run(ctx, t.network.node.NS) })
	all.Wait()
	if err := errors.Join(pods.err, node.err, context.Cause(ctx)); err != nil {
		return err
	}
	for _, a := range []arrival{pods, node} {
		if a.last().IsZero() {
			return fmt.Errorf("with its ipsets filled, Services did not answer to %s within %v", a.name, t.options.coldTimeout)
		}
	}
	return nil
}

// kubeProxySets is what kube-proxy adds to its ipsets for the Services of a spec,
// one process for each line, in the format of ipset restore.
func kubeProxySets(s spec) string {
	var b strings.Builder
	for i := range s.total() {
		at := vip(i)
		fmt.Fprintf(&b, "add KUBE-CLUSTER-IP %s,tcp:%d\nadd KUBE-IPVS-IPS %s\n", at.Addr(), at.Port(), at.Addr())
	}
	return b.String()
}

func (n *network) restoreSets(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p := n.node.Command(ctx, "ipset", "restore", "-exist")
	p.Cmd.Stdin = strings.NewReader(text)
	if err := p.Start(); err != nil {
		return err
	}
	if err := p.Wait(); err != nil {
		return fmt.Errorf("ipset restore: %w: %s", err, strings.TrimSpace(p.Stderr()))
	}
	return nil
}
