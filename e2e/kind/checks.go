//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// A check is one thing that must be true of the Services of workload.yaml.
type check struct {
	name string
	run  func(context.Context, *cluster) error
}

// checksOf returns the checks; with a mode also those that only fairlead in that
// mode can pass.
func checksOf(mode string) []check {
	all := []check{
		{"cluster IP, from pods and nodes", clusterIP},
		{"node port, from outside", nodePort},
		{"external IP, from outside", externalIP},
		{"load balancer, from outside", loadBalancer},
		{"client IP affinity", affinity},
		{"externalTrafficPolicy: Local keeps the caller's address", localPolicy},
		{"healthCheckNodePort", healthCheck},
		{"a pod through its own Service", hairpin},
		{"no endpoints: refused", nobody},
		{"cluster DNS", dns},
		{"endpoints go and come", goAndCome},
	}
	if mode != "" {
		all = append(all, check{"health and mode", func(ctx context.Context, c *cluster) error { return health(ctx, c, mode) }})
	}
	return all
}

// check runs checks until each holds.
func (c *cluster) check(ctx context.Context, all []check) error {
	if _, err := c.kubectl(ctx, "rollout", "status", "daemonset/web", "--timeout=240s"); err != nil {
		return err
	}
	if _, err := c.kubectl(ctx, "rollout", "status", "deployment/single", "--timeout=240s"); err != nil {
		return err
	}
	for _, one := range all {
		if err := eventually(ctx, one.name, func() error { return one.run(ctx, c) }); err != nil {
			return err
		}
		c.say("  ok: %s", one.name)
	}
	return nil
}

// tries is how many conversations show that two endpoints share the load: the
// chance of missing one of them is one in eight million.
const tries = 24

// all requires that all pods of an app answer, and nobody fails.
func (c *cluster) all(ctx context.Context, from place, app, network, addr string) ([]answer, error) {
	want, err := c.pods(ctx, app)
	if err != nil {
		return nil, err
	}
	answers, err := c.call(ctx, from, network, addr, tries)
	if err != nil {
		return nil, err
	}
	var got []string
	for _, a := range answers {
		if a.failure != "" {
			return nil, fmt.Errorf("%s to %s %s: %s", from, network, addr, a.failure)
		}
		got = append(got, a.pod)
	}
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		return nil, fmt.Errorf("%s to %s %s: got answers of %v, want of %v", from, network, addr, got, want)
	}
	return answers, nil
}

func clusterIP(ctx context.Context, c *cluster) error {
	ips, err := c.clusterIPs(ctx, "web")
	if err != nil {
		return err
	}
	from := []place{{container: controlPlane}, {container: worker}}
	for _, node := range []string{controlPlane, worker} {
		pod, err := c.podOn(ctx, "web", node)
		if err != nil {
			return err
		}
		from = append(from, pod)
	}
	for _, ip := range ips {
		for _, network := range []string{"tcp", "udp"} {
			for _, p := range from {
				if _, err := c.all(ctx, p, "web", network, net.JoinHostPort(ip, "80")); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func nodePort(ctx context.Context, c *cluster) error {
	for _, node := range []string{controlPlane, worker} {
		for _, ip := range c.addrs[node] {
			for _, network := range []string{"tcp", "udp"} {
				if _, err := c.all(ctx, place{container: client}, "web", network, net.JoinHostPort(ip, "30080")); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// routed makes the client send what is for an address to a node, as a router does.
func (c *cluster) routed(ctx context.Context, ip, node string) error {
	family := 0
	if strings.Contains(ip, ":") {
		family = 1
	}
	_, err := c.in(ctx, client, "ip", "route", "replace", ip, "via", c.addrs[node][family])
	return err
}

func externalIP(ctx context.Context, c *cluster) error {
	for _, ip := range []string{"203.0.113.10", "2001:db8:113::10"} {
		for _, node := range []string{controlPlane, worker} {
			if err := c.routed(ctx, ip, node); err != nil {
				return err
			}
			if _, err := c.all(ctx, place{container: client}, "web", "tcp", net.JoinHostPort(ip, "80")); err != nil {
				return err
			}
		}
	}
	return nil
}

func loadBalancer(ctx context.Context, c *cluster) error {
	const status = `{"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.20"}, {"ip": "2001:db8:113::20"}]}}}`
	if _, err := c.kubectl(ctx, "patch", "service", "web", "--subresource=status", "--type=merge", "-p", status); err != nil {
		return err
	}
	for _, ip := range []string{"203.0.113.20", "2001:db8:113::20"} {
		if err := c.routed(ctx, ip, worker); err != nil {
			return err
		}
		if _, err := c.all(ctx, place{container: client}, "web", "tcp", net.JoinHostPort(ip, "80")); err != nil {
			return err
		}
	}
	return nil
}

func affinity(ctx context.Context, c *cluster) error {
	ips, err := c.clusterIPs(ctx, "sticky")
	if err != nil {
		return err
	}
	for _, ip := range ips {
		answers, err := c.call(ctx, place{container: worker}, "tcp", net.JoinHostPort(ip, "80"), tries)
		if err != nil {
			return err
		}
		for _, a := range answers {
			if a.failure != "" || a.pod != answers[0].pod {
				return fmt.Errorf("%s: got %+v after %+v, want the same pod", ip, a, answers[0])
			}
		}
	}
	return nil
}

func localPolicy(ctx context.Context, c *cluster) error {
	for family, ip := range c.addrs[worker] {
		answers, err := c.all(ctx, place{container: client}, "single", "tcp", net.JoinHostPort(ip, "30081"))
		if err != nil {
			return err
		}
		for _, a := range answers {
			if want := c.addrs[client][family]; a.caller != want {
				return fmt.Errorf("%s: the pod saw %s, want %s", ip, a.caller, want)
			}
		}
	}
	for _, ip := range c.addrs[controlPlane] {
		answers, err := c.call(ctx, place{container: client}, "tcp", net.JoinHostPort(ip, "30081"), 1)
		if err != nil {
			return err
		}
		if answers[0].failure == "" {
			return fmt.Errorf("%s: %s answered, want nobody: no endpoint is on this node", ip, answers[0].pod)
		}
	}
	return nil
}

func healthCheck(ctx context.Context, c *cluster) error {
	for node, want := range map[string]string{controlPlane: "503", worker: "200"} {
		got, err := c.in(ctx, client, "curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}",
			"http://"+net.JoinHostPort(c.addrs[node][0], "30999"))
		if err != nil || got != want {
			return fmt.Errorf("%s: got %s, want %s: %w", node, got, want, err)
		}
	}
	return nil
}

func hairpin(ctx context.Context, c *cluster) error {
	ips, err := c.clusterIPs(ctx, "single")
	if err != nil {
		return err
	}
	pod, err := c.podOn(ctx, "single", worker)
	if err != nil {
		return err
	}
	for _, ip := range ips {
		if _, err := c.all(ctx, pod, "single", "tcp", net.JoinHostPort(ip, "80")); err != nil {
			return err
		}
	}
	return nil
}

func nobody(ctx context.Context, c *cluster) error { return c.refused(ctx, "nobody") }

// refused requires that a Service refuses, at once, from a pod and from a node.
func (c *cluster) refused(ctx context.Context, service string) error {
	ips, err := c.clusterIPs(ctx, service)
	if err != nil {
		return err
	}
	pod, err := c.podOn(ctx, "web", controlPlane)
	if err != nil {
		return err
	}
	for _, ip := range ips {
		for _, p := range []place{pod, {container: worker}} {
			answers, err := c.call(ctx, p, "tcp", net.JoinHostPort(ip, "80"), 1)
			if err != nil {
				return err
			}
			if answers[0].failure != "refused" {
				return fmt.Errorf("%s to %s: got %+v, want refused", p, ip, answers[0])
			}
		}
	}
	return nil
}

func dns(ctx context.Context, c *cluster) error {
	want, err := c.clusterIPs(ctx, "web")
	if err != nil {
		return err
	}
	for _, node := range []string{controlPlane, worker} {
		pod, err := c.podOn(ctx, "web", node)
		if err != nil {
			return err
		}
		got, err := c.output(ctx, pod.command("resolve", "web.default.svc.cluster.local")...)
		if err != nil {
			return err
		}
		addrs := strings.Fields(got)
		for _, ip := range want {
			if !slices.Contains(addrs, ip) {
				return fmt.Errorf("%s: got %v, want %s among them", pod, addrs, ip)
			}
		}
	}
	return nil
}

func goAndCome(ctx context.Context, c *cluster) error {
	if _, err := c.kubectl(ctx, "scale", "deployment/single", "--replicas=0"); err != nil {
		return err
	}
	gone := eventually(ctx, "no endpoint is left", func() error { return c.refused(ctx, "single") })
	if _, err := c.kubectl(ctx, "scale", "deployment/single", "--replicas=1"); err != nil {
		return errors.Join(gone, err)
	}
	if _, err := c.kubectl(ctx, "rollout", "status", "deployment/single", "--timeout=240s"); err != nil {
		return errors.Join(gone, err)
	}
	return errors.Join(gone, eventually(ctx, "the new endpoint", func() error { return hairpin(ctx, c) }))
}

// health asks fairlead on each node how it is, and in what mode.
func health(ctx context.Context, c *cluster, mode string) error {
	for _, node := range []string{controlPlane, worker} {
		if _, err := c.in(ctx, node, "curl", "-sf", "-m", "5", "http://127.0.0.1:10256/healthz"); err != nil {
			return err
		}
		got, err := c.in(ctx, node, "curl", "-sf", "-m", "5", "http://127.0.0.1:10249/proxyMode")
		if err != nil || got != mode {
			return fmt.Errorf("%s: got the mode %q, want %q: %w", node, got, mode, err)
		}
	}
	return nil
}

// curl is the client's. It fails unless the answer is 200.
func (c *cluster) curl(ctx context.Context, args ...string) (string, error) {
	return c.in(ctx, client, append([]string{"curl", "-sSf", "-m", "10"}, args...)...)
}

// ingressAnswers asks the node that serves Ingresses until both pods answered, and
// requires that another host or path is not served.
func ingressAnswers(ctx context.Context, c *cluster) error {
	want, err := c.pods(ctx, "web")
	if err != nil {
		return err
	}
	for family, ip := range c.addrs[worker] {
		var pods []string
		for range tries {
			out, err := c.curl(ctx, "-H", "Host: shop.example", "http://"+net.JoinHostPort(ip, "80")+"/cart/1")
			if err != nil {
				return err
			}
			pod, rest, _ := strings.Cut(out, " ")
			if want := c.addrs[client][family] + " shop.example /cart/1"; rest != want {
				return fmt.Errorf("%s: the pod saw %q, want %q", ip, rest, want)
			}
			pods = append(pods, pod)
		}
		slices.Sort(pods)
		if pods = slices.Compact(pods); !slices.Equal(pods, want) {
			return fmt.Errorf("%s: got answers of %v, want of %v", ip, pods, want)
		}
		got, err := c.in(ctx, client, "curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: shop.example",
			"http://"+net.JoinHostPort(ip, "80")+"/elsewhere")
		if err != nil || got != "404" {
			return fmt.Errorf("%s: another path got %s, want 404: %w", ip, got, err)
		}
	}
	return nil
}

// ingressStatus requires the address of the node that serves Ingresses.
func ingressStatus(ctx context.Context, c *cluster) error {
	got, err := c.kubectl(ctx, "get", "ingress", "shop", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
	if err != nil || !strings.Contains(got, c.addrs[worker][0]) {
		return fmt.Errorf("got %q, want %s in it: %w", got, c.addrs[worker][0], err)
	}
	return nil
}

// leftBehind looks for the rules of whoever was replaced.
func leftBehind(of string) []check {
	marks := map[string][]string{
		"kube-proxy": {"KUBE-SVC-", "KUBE-SERVICES", "table ip kube-proxy", "table ip6 kube-proxy"},
		"fairlead":   {"FL-"},
	}[of]
	return []check{{"nothing of " + of + " is left", func(ctx context.Context, c *cluster) error {
		for _, node := range []string{controlPlane, worker} {
			for _, list := range []string{"iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "ip6tables-legacy-save", "nft list tables"} {
				rules, err := c.in(ctx, node, strings.Fields(list)...)
				if err != nil && !strings.Contains(list, "legacy") { // which newer kernels do not have
					return err
				}
				for _, mark := range marks {
					if strings.Contains(rules, mark) {
						return fmt.Errorf("%s: %s has %s", node, list, mark)
					}
				}
			}
		}
		return nil
	}}}
}
