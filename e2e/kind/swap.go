//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// A step is one change of who is in charge.
type step struct {
	what string
	do   func(context.Context) error
	left string // who was replaced
}

// swapByScript changes the image of kube-proxy's DaemonSet to fairlead's and back
// with deploy/swap.sh.
func swapByScript(ctx context.Context, c *cluster, o options) error {
	if err := c.copyScript(ctx, o); err != nil {
		return err
	}
	return c.swaps(ctx, []step{
		{"deploy/swap.sh " + fairleadImage, func(ctx context.Context) error { return c.script(ctx, fairleadImage) }, "kube-proxy"},
		{"deploy/swap.sh --back", func(ctx context.Context) error { return c.script(ctx, "--back") }, "fairlead"},
	})
}

// swapByHand does so with kubectl, in a cluster whose configuration asks for a
// mode that fairlead has not got. First the script tries it all the same, and has
// to put things back. Then fairlead gets a configuration of its own beside it.
func swapByHand(ctx context.Context, c *cluster, o options) error {
	if err := c.copyScript(ctx, o); err != nil {
		return err
	}
	return c.swaps(ctx, []step{
		{"deploy/swap.sh " + fairleadImage + ", which must go back", c.scriptGoesBack, "fairlead"},
		{"kubectl patch configmap/kube-proxy, daemonset/kube-proxy", c.patchImage, "kube-proxy"},
		{"kubectl rollout undo daemonset/kube-proxy, fairlead cleanup on every node", c.undo, "fairlead"},
	})
}

// swaps takes steps while conversations go on, and looks at Services before and
// after each.
func (c *cluster) swaps(ctx context.Context, steps []step) error {
	all := checksOf("")
	c.say("with kube-proxy")
	if err := c.check(ctx, all); err != nil {
		return fmt.Errorf("before any swap: %w", err)
	}
	for _, s := range steps {
		c.say("%s", s.what)
		talk, err := c.talk(ctx)
		if err != nil {
			return err
		}
		err = s.do(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(settled):
		}
		if err := errors.Join(err, talk.end()); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		if err := c.check(ctx, append(leftBehind(s.left), all...)); err != nil {
			return fmt.Errorf("after %s: %w", s.what, err)
		}
	}
	return nil
}

// settled is how long conversations go on after a swap.
const settled = 10 * time.Second

func (c *cluster) copyScript(ctx context.Context, o options) error {
	_, err := c.output(ctx, "docker", "cp", filepath.Join(o.repo, "deploy", "swap.sh"), controlPlane+":/swap.sh")
	return err
}

// script runs deploy/swap.sh where kubectl has all rights.
func (c *cluster) script(ctx context.Context, argument string) error {
	_, err := c.output(ctx, "docker", "exec", "-e", "KUBECONFIG=/etc/kubernetes/admin.conf", "-e", "TIMEOUT=100s",
		controlPlane, "bash", "/swap.sh", argument)
	return err
}

func (c *cluster) scriptGoesBack(ctx context.Context) error {
	if err := c.script(ctx, fairleadImage); err == nil {
		return errors.New("swap.sh says that all is well, with a configuration that fairlead cannot follow")
	}
	image, err := c.kubectl(ctx, "-n", "kube-system", "get", "daemonset", "kube-proxy", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	if err != nil || image == fairleadImage {
		return fmt.Errorf("the image is %s still: %w", image, err)
	}
	return nil
}

// patchImage gives fairlead its own configuration, and the DaemonSet fairlead.
func (c *cluster) patchImage(ctx context.Context) error {
	const own = `{"data": {"fairlead.yaml": "apiVersion: fairlead.io/v1alpha1\nkind: FairleadConfiguration\nmodes: [iptables]\n"}}`
	if _, err := c.kubectl(ctx, "-n", "kube-system", "patch", "configmap", "kube-proxy", "--type=merge", "-p", own); err != nil {
		return err
	}
	const path = "/spec/template/spec/containers/0/"
	patch := `[{"op": "replace", "path": "` + path + `image", "value": "` + fairleadImage + `"},
		{"op": "add", "path": "` + path + `command/-", "value": "--fairlead-config=/var/lib/kube-proxy/fairlead.yaml"}]`
	if _, err := c.kubectl(ctx, "-n", "kube-system", "patch", "daemonset", "kube-proxy", "--type=json", "-p", patch); err != nil {
		return err
	}
	return c.rolledOut(ctx)
}

func (c *cluster) rolledOut(ctx context.Context) error {
	_, err := c.kubectl(ctx, "-n", "kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=240s")
	return err
}

// undo brings kube-proxy back. It knows nothing of fairlead's rules, which are in
// front of its own and keep the endpoints of then, until somebody takes them away.
func (c *cluster) undo(ctx context.Context) error {
	if _, err := c.kubectl(ctx, "-n", "kube-system", "rollout", "undo", "daemonset/kube-proxy"); err != nil {
		return err
	}
	if err := c.rolledOut(ctx); err != nil {
		return err
	}
	return c.cleanup(ctx)
}

// cleanupPod runs `fairlead cleanup` on the node ${NODE}.
//
//go:embed cleanup.yaml
var cleanupPod string

// cleanup takes fairlead's rules from every node.
func (c *cluster) cleanup(ctx context.Context) error {
	for _, node := range []string{controlPlane, worker} {
		if err := c.apply(ctx, strings.NewReplacer("${NODE}", node, "${IMAGE}", fairleadImage).Replace(cleanupPod)); err != nil {
			return err
		}
	}
	_, err := c.kubectl(ctx, "-n", "kube-system", "wait", "pod", "-l", "app=fairlead-cleanup",
		"--for=jsonpath={.status.phase}=Succeeded", "--timeout=180s")
	return err
}
