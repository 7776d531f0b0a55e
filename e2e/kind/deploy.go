//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// cleanInstall puts fairlead into a cluster without kube-proxy as docs/install.md
// says, and looks at Services.
func (c *cluster) cleanInstall(ctx context.Context, o options, mode string) error {
	if err := c.kustomize(ctx, o, mode); err != nil {
		return err
	}
	if _, err := c.kubectl(ctx, "-n", "kube-system", "rollout", "status", "daemonset/fairlead", "--timeout=240s"); err != nil {
		return err
	}
	return c.check(ctx, checksOf(mode))
}

// ingress puts L4 and L7 into a cluster, and looks at an Ingress from outside.
func ingress(ctx context.Context, c *cluster, o options) error {
	if _, err := c.kubectl(ctx, "label", "node", worker, "fairlead.io/edge=true"); err != nil {
		return err
	}
	if err := c.kustomize(ctx, o, "with-l7"); err != nil {
		return err
	}
	for namespace, name := range map[string]string{"kube-system": "fairlead", "fairlead-l7": "fairlead-l7"} {
		if _, err := c.kubectl(ctx, "-n", namespace, "rollout", "status", "daemonset/"+name, "--timeout=240s"); err != nil {
			return err
		}
	}
	return c.check(ctx, []check{
		{"an Ingress, from outside", ingressAnswers},
		{"an Ingress over TLS, from outside", func(ctx context.Context, c *cluster) error {
			_, err := c.curl(ctx, "-k", "--resolve", "shop.example:443:"+c.addrs[worker][0], "https://shop.example/cart/1")
			return err
		}},
		{"the status of the Ingress", ingressStatus},
	})
}

// kustomize applies a folder of deploy/kustomize with the image of the tests.
// Where there is no kube-proxy the cluster IP of the API server does not answer
// before fairlead made it, so fairlead is told the real one.
func (c *cluster) kustomize(ctx context.Context, o options, mode string) error {
	c.say("kubectl apply -k deploy/kustomize/%s", mode)
	if _, err := c.output(ctx, "docker", "cp", filepath.Join(o.repo, "deploy"), controlPlane+":/fairlead-deploy"); err != nil {
		return err
	}
	if _, err := c.kubectl(ctx, "-n", "kube-system", "create", "configmap", "fairlead-api-server",
		"--from-literal=KUBERNETES_SERVICE_HOST="+c.addrs[controlPlane][0], "--from-literal=KUBERNETES_SERVICE_PORT=6443"); err != nil {
		return err
	}
	name, tag, _ := strings.Cut(fairleadImage, ":")
	overlay := fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../kustomize/%s]
images:
- {name: registry.example.com/fairlead, newName: %s, newTag: %s}
- {name: fairlead, newName: %s, newTag: %s}
patches:
- target: {kind: DaemonSet, name: fairlead}
  patch: |-
    - {op: add, path: /spec/template/spec/containers/0/imagePullPolicy, value: Never}
`, mode, name, tag, name, tag)
	// The one line that an installer has to fill in; these are kind's ranges.
	fill := "mkdir -p /fairlead-deploy/e2e && sed -i 's|^# clusterCIDR:.*|clusterCIDR: 10.244.0.0/16,fd00:10:244::/56|' /fairlead-deploy/kustomize/*/config.conf"
	if _, err := c.in(ctx, controlPlane, "sh", "-c", fill); err != nil {
		return err
	}
	if _, err := c.input(ctx, overlay, "docker", "exec", "-i", controlPlane, "tee", "/fairlead-deploy/e2e/kustomization.yaml"); err != nil {
		return err
	}
	_, err := c.kubectl(ctx, "apply", "-k", "/fairlead-deploy/e2e")
	return err
}
