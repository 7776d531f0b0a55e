//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kindConfig describes the cluster; ${MODE} is for kube-proxy's.
//
//go:embed kind.yaml
var kindConfig string

// clusterName is the same for all lanes: there is one at a time.
const clusterName = "fairlead-e2e"

// kubeconfig is inside the containers; the one that kind insists on writing is of
// no use.
var kubeconfig = filepath.Join(os.TempDir(), clusterName+".kubeconfig")

// Containers. The client is beside the nodes, as a router or a client on the same
// wire is.
const (
	controlPlane = clusterName + "-control-plane"
	worker       = clusterName + "-worker"
	client       = clusterName + "-client"
)

// A cluster is one that kind made.
type cluster struct {
	*shell
	addrs map[string][2]string // of nodes and the client, IPv4 and IPv6
}

// newCluster makes a cluster whose pods can reach each other and whose nodes have
// the images of the tests. Mode is kube-proxy's.
func newCluster(ctx context.Context, s *shell, o options, mode string) (*cluster, error) {
	c := &cluster{shell: s, addrs: map[string][2]string{}}
	if err := c.delete(ctx); err != nil {
		return nil, err
	}
	args := []string{s.gocmd, "tool", "kind", "create", "cluster", "--name", clusterName, "--config", "-", "--kubeconfig", kubeconfig, "--retain"}
	if o.node != "" {
		args = append(args, "--image", o.node)
	}
	c.say("kind create cluster, kubeProxyMode: %s", mode)
	if _, err := c.input(ctx, strings.ReplaceAll(kindConfig, "${MODE}", mode), args...); err != nil {
		return c, err
	}
	if err := c.addClient(ctx); err != nil {
		return c, err
	}
	if err := c.connectPods(ctx); err != nil {
		return c, err
	}
	c.say("kind load docker-image")
	if _, err := c.output(ctx, c.gocmd, "tool", "kind", "load", "docker-image", "--name", clusterName, fairleadImage, backendImage); err != nil {
		return c, err
	}
	return c, nil
}

// delete takes away the cluster and the client, if they are there.
func (c *cluster) delete(ctx context.Context) error {
	_, err1 := c.output(ctx, "docker", "rm", "-f", "-v", client)
	if err1 != nil && strings.Contains(err1.Error(), "No such container") {
		err1 = nil
	}
	_, err2 := c.output(ctx, c.gocmd, "tool", "kind", "delete", "cluster", "--name", clusterName, "--kubeconfig", kubeconfig)
	return errors.Join(err1, err2)
}

// addClient starts the client of the image that the nodes have, because that one
// is there, and puts the backend's program into all three.
func (c *cluster) addClient(ctx context.Context) error {
	image, err := c.output(ctx, "docker", "inspect", "-f", "{{.Config.Image}}", worker)
	if err != nil {
		return err
	}
	if _, err := c.output(ctx, "docker", "run", "-d", "--name", client, "--network", "kind", "--cap-add", "NET_ADMIN",
		"--sysctl", "net.ipv6.conf.all.disable_ipv6=0", "--entrypoint", "sleep", image, "infinity"); err != nil {
		return err
	}
	made, err := c.output(ctx, "docker", "create", backendImage)
	if err != nil {
		return err
	}
	defer c.output(context.WithoutCancel(ctx), "docker", "rm", "-v", made)
	dir, err := os.MkdirTemp("", "fairlead-kind-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "backend")
	if _, err := c.output(ctx, "docker", "cp", made+":/backend", program); err != nil {
		return err
	}
	for _, container := range []string{controlPlane, worker, client} {
		if _, err := c.output(ctx, "docker", "cp", program, container+":/usr/local/bin/backend"); err != nil {
			return err
		}
		const format = "{{.NetworkSettings.Networks.kind.IPAddress}} {{.NetworkSettings.Networks.kind.GlobalIPv6Address}}"
		addrs, err := c.output(ctx, "docker", "inspect", "-f", format, container)
		if err != nil {
			return err
		}
		v4, v6, ok := strings.Cut(addrs, " ")
		if !ok || v6 == "" {
			return fmt.Errorf("%s has the addresses %q, want one of each family", container, addrs)
		}
		c.addrs[container] = [2]string{v4, v6}
	}
	return nil
}

// conflist gives pods veth pairs, and addresses out of their node's ranges.
const conflist = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
 {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local",
  "ranges": [[{"subnet": %q}], [{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}`

// connectPods is the CNI: what kindnetd does, without its image.
func (c *cluster) connectPods(ctx context.Context) error {
	ranges := map[string][]string{}
	for _, node := range []string{controlPlane, worker} {
		err := eventually(ctx, "pod ranges of "+node, func() error {
			out, err := c.kubectl(ctx, "get", "node", node, "-o", "jsonpath={.spec.podCIDRs[*]}")
			if err != nil {
				return err
			}
			if ranges[node] = strings.Fields(out); len(ranges[node]) != 2 {
				return fmt.Errorf("got %q, want two", out)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for node, other := range map[string]string{controlPlane: worker, worker: controlPlane} {
		text := fmt.Sprintf(conflist, ranges[node][0], ranges[node][1])
		if _, err := c.input(ctx, text, "docker", "exec", "-i", node, "tee", "/etc/cni/net.d/10-pods.conflist"); err != nil {
			return err
		}
		for i, dst := range ranges[other] {
			if _, err := c.in(ctx, node, "ip", "route", "replace", dst, "via", c.addrs[other][i]); err != nil {
				return err
			}
		}
	}
	_, err := c.kubectl(ctx, "wait", "--for=condition=Ready", "node", "--all", "--timeout=180s")
	return err
}

// in runs a program in a container.
func (c *cluster) in(ctx context.Context, container string, args ...string) (string, error) {
	return c.output(ctx, append([]string{"docker", "exec", container}, args...)...)
}

// kubectl runs kubectl on the control plane's node, where it has all rights.
func (c *cluster) kubectl(ctx context.Context, args ...string) (string, error) {
	return c.in(ctx, controlPlane, append([]string{"kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"}, args...)...)
}

// apply applies YAML.
func (c *cluster) apply(ctx context.Context, manifests string) error {
	_, err := c.input(ctx, manifests, "docker", "exec", "-i", controlPlane,
		"kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "apply", "-f", "-")
	return err
}
