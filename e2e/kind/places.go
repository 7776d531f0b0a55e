//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A place is where somebody talks to a Service from: a node or the client, or a
// pod on a node.
type place struct {
	container string
	pod       string // empty for the container itself
}

func (p place) String() string {
	if p.pod == "" {
		return p.container
	}
	return "pod " + p.pod
}

// command is how to run the backend's program there.
func (p place) command(args ...string) []string {
	if p.pod == "" {
		return append([]string{"docker", "exec", "-i", p.container, "backend"}, args...)
	}
	return append([]string{"docker", "exec", "-i", controlPlane, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf",
		"exec", "-i", p.pod, "--", "/backend"}, args...)
}

// podOn returns the pod of an app on a node.
func (c *cluster) podOn(ctx context.Context, app, node string) (place, error) {
	out, err := c.kubectl(ctx, "get", "pod", "-l", "app="+app, "--field-selector", "status.phase=Running,spec.nodeName="+node,
		"-o", "jsonpath={.items[0].metadata.name}")
	if err != nil || out == "" {
		return place{}, fmt.Errorf("no pod of %s runs on %s: %w", app, node, err)
	}
	return place{container: node, pod: out}, nil
}

// pods returns the names of the ready pods of an app.
func (c *cluster) pods(ctx context.Context, app string) ([]string, error) {
	out, err := c.kubectl(ctx, "get", "endpointslice", "-l", "kubernetes.io/service-name="+app,
		"-o", "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].targetRef.name}")
	names := strings.Fields(out)
	slices.Sort(names)
	return slices.Compact(names), err
}

// clusterIPs returns the IPv4 and the IPv6 address of a Service.
func (c *cluster) clusterIPs(ctx context.Context, service string) ([2]string, error) {
	out, err := c.kubectl(ctx, "get", "service", service, "-o", "jsonpath={.spec.clusterIPs[*]}")
	ips := strings.Fields(out)
	if err != nil || len(ips) != 2 {
		return [2]string{}, fmt.Errorf("cluster IPs of %s: got %q, want two: %w", service, out, err)
	}
	return [2]string(ips), nil
}

// An answer is what one conversation brought: who answered, and as whom it saw
// the caller; or why nobody did.
type answer struct {
	pod, caller string
	failure     string
}

// call has n conversations.
func (c *cluster) call(ctx context.Context, from place, network, addr string, n int) ([]answer, error) {
	out, err := c.output(ctx, from.command("call", network, addr, strconv.Itoa(n))...)
	if err != nil {
		return nil, err
	}
	var answers []answer
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if failure, ok := strings.CutPrefix(line, "error: "); ok {
			answers = append(answers, answer{failure: failure})
			continue
		}
		pod, caller, _ := strings.Cut(line, " ")
		answers = append(answers, answer{pod: pod, caller: caller})
	}
	return answers, nil
}
