//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// deployTools builds the programs of the module tools/deploy once, and returns their
// folder.
var deployTools = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place for programs: %w", err)
	}
	dir := filepath.Join(cache, "fairlead-e2e", "deploy")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// As controlplane builds, for the sake of what is compiled already.
	build := exec.Command("go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir+"/", "./kubectl", "./chart")
	build.Dir = filepath.Join("tools", "deploy")
	build.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs of tools/deploy: %w\n%s", err, out)
	}
	return dir, nil
})

// A deployBed is a world with a real API server as kubeadm sets it up, and nobody but a
// test who acts on what is written there.
type deployBed struct {
	*bed
	api     *world.API
	objects dynamic.Interface
	mapper  meta.RESTMapper
	tools   string
	audit   string // what was asked of the API server, by whom
}

func newDeployBed(t *testing.T) *deployBed {
	t.Helper()
	b := &deployBed{bed: newBed(t, "nft"), audit: filepath.Join(t.TempDir(), "audit.log")}
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	const everything = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [ResponseStarted]\nrules: [{level: Metadata}]\n"
	err := os.WriteFile(policy, []byte(everything), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if b.tools, err = deployTools(); err != nil {
		t.Fatal(err)
	}
	apiStart.Lock()
	defer apiStart.Unlock()
	b.api, err = world.NewAPI(t.Context(), b.World, controlplane.Options{APIServerArgs: []string{
		"--allow-privileged=true", "--audit-policy-file=" + policy, "--audit-log-path=" + b.audit, "--audit-log-mode=blocking",
	}})
	if err != nil {
		t.Fatal(err)
	}
	b.src = b.api
	t.Cleanup(func() {
		if err := b.api.Close(); err != nil {
			t.Error(err)
		}
	})
	if b.objects, err = dynamic.NewForConfig(b.api.ControlPlane.RESTConfig()); err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(b.api.Client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	b.mapper = restmapper.NewDiscoveryRESTMapper(groups)
	return b
}

// output runs one of the tools and returns what it wrote; in the error is what it
// complained of.
func (b *deployBed) output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(b.tools, name), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, stderr.String(), stdout.String())
	}
	return stdout.String(), nil
}

// kustomize renders a folder under deploy.
func (b *deployBed) kustomize(t *testing.T, folder string) []*unstructured.Unstructured {
	t.Helper()
	out, err := b.output(t.Context(), "kubectl", "kustomize", filepath.Join("..", "deploy", folder))
	if err != nil {
		t.Fatal(err)
	}
	return parseObjects(t, out)
}

// chart is where the Helm chart is.
var chart = filepath.Join("..", "deploy", "helm", "fairlead")

// template renders the Helm chart for a release fairlead in a namespace, with values.
func (b *deployBed) template(t *testing.T, namespace, values string) ([]*unstructured.Unstructured, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := b.output(t.Context(), "chart", "template", "-namespace", namespace, chart, file)
	if err != nil {
		return nil, err
	}
	return parseObjects(t, out), nil
}

func parseObjects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	dec := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := dec.Decode(o); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(o.Object) > 0 {
			out = append(out, o)
		}
	}
}

// submit writes objects, namespaces first. With dry the API server only says whether it
// would take them.
func (b *deployBed) submit(t *testing.T, what string, objects []*unstructured.Unstructured, dry bool) {
	t.Helper()
	a := l7API{cluster: b.api.ControlPlane, admin: b.api.Client, objects: b.objects, mapper: b.mapper}
	for _, first := range []bool{true, false} {
		for _, o := range objects {
			if (o.GetKind() == "Namespace") == first {
				a.apply(t, what, o, dry && !first)
			}
		}
	}
}

// find returns the object of a kind and a name.
func find(t *testing.T, objects []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range objects {
		if o.GetKind() == kind && o.GetName() == name {
			return o
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return nil
}
