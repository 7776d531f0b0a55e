//go:build linux

package main

import (
	"context"
	_ "embed"
	"fmt"
	"path/filepath"
	"strings"
	"time"
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
	fill := "mkdir -p /fairlead-deploy/e2e && sed -i 's|^# clusterCIDR:.*|clusterCIDR: 10.244.0.0/16,fd00:10:244::/56|' /fairlead-deploy/kustomize/" + mode + "/config.conf"
	if _, err := c.in(ctx, controlPlane, "sh", "-c", fill); err != nil {
		return err
	}
	if _, err := c.input(ctx, overlay, "docker", "exec", "-i", controlPlane, "tee", "/fairlead-deploy/e2e/kustomization.yaml"); err != nil {
		return err
	}
	_, err := c.kubectl(ctx, "apply", "-k", "/fairlead-deploy/e2e")
	return err
}

// swapThere changes the image of kube-proxy's DaemonSet to fairlead's and back,
// while conversations go on, and looks at Services before, in between and after.
func swapThere(ctx context.Context, c *cluster, _ options) error {
	all := checksOf("")
	c.say("with kube-proxy")
	if err := c.check(ctx, all); err != nil {
		return fmt.Errorf("before the swap, with kube-proxy: %w", err)
	}
	original, err := c.kubectl(ctx, "-n", "kube-system", "get", "daemonset", "kube-proxy", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	if err != nil {
		return err
	}
	for _, step := range []struct {
		image, left string
		after       func(context.Context) error
	}{
		{image: fairleadImage, left: "kube-proxy"},
		// kube-proxy knows nothing of fairlead's rules, which are in front of its own
		// and keep the endpoints of then, until somebody takes them away.
		{image: original, left: "fairlead", after: c.cleanup},
	} {
		c.say("kubectl -n kube-system set image daemonset/kube-proxy kube-proxy=%s", step.image)
		if err := c.swap(ctx, step.image, step.after); err != nil {
			return fmt.Errorf("while the image became %s: %w", step.image, err)
		}
		if err := c.check(ctx, append(leftBehind(step.left), all...)); err != nil {
			return fmt.Errorf("after the image became %s: %w", step.image, err)
		}
	}
	return nil
}

// swap changes the image while conversations go on, and fails if any was lost.
func (c *cluster) swap(ctx context.Context, image string, after func(context.Context) error) error {
	talk, err := c.talk(ctx)
	if err != nil {
		return err
	}
	if err := c.setImage(ctx, image); err != nil {
		return err
	}
	if after != nil {
		if err := after(ctx); err != nil {
			return err
		}
	}
	return talk.end()
}

// cleanupPod runs `fairlead cleanup` on the node ${NODE}.
//
//go:embed cleanup.yaml
var cleanupPod string

// cleanup takes fairlead's rules from every node.
func (c *cluster) cleanup(ctx context.Context) error {
	c.say("fairlead cleanup on every node")
	for _, node := range []string{controlPlane, worker} {
		if err := c.apply(ctx, strings.NewReplacer("${NODE}", node, "${IMAGE}", fairleadImage).Replace(cleanupPod)); err != nil {
			return err
		}
	}
	_, err := c.kubectl(ctx, "-n", "kube-system", "wait", "pod", "-l", "app=fairlead-cleanup",
		"--for=jsonpath={.status.phase}=Succeeded", "--timeout=180s")
	return err
}

// setImage rolls an image out, and gives what runs then some time to be in charge.
func (c *cluster) setImage(ctx context.Context, image string) error {
	if _, err := c.kubectl(ctx, "-n", "kube-system", "set", "image", "daemonset/kube-proxy", "kube-proxy="+image); err != nil {
		return err
	}
	if _, err := c.kubectl(ctx, "-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=240s"); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Second):
		return nil
	}
}
