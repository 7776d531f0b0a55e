//go:build linux

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// rights runs what kubectl apply -k makes, with the token of its ServiceAccount, and
// compares what that may do with what it is seen to do.
func (b *deployBed) rights(t *testing.T) {
	objects := b.kustomize(t, "kustomize/iptables")
	b.submit(t, "kustomize/iptables", objects, false)
	b.serve(t, netns.TCP, 8080, pod(2))
	b.put(t, web(1, 2))
	secrets := b.serviceAccount(t, "fairlead")
	spec := daemonSet(t, find(t, objects, "DaemonSet", "fairlead")).Spec.Template.Spec
	config := deployedConfig(t, world.IPTables,
		map[string]any{"clusterCIDR": "10.244.0.0/16,fd00:10:244::/48"},
		map[string]any{"iptables": map[string]any{"variant": b.variant}})
	env := b.podEnv(t, secrets)
	binary := b.program.Path
	b.initialize(t, spec.InitContainers, binary, config, env)
	c := &spec.Containers[0]
	p, err := b.Start(context.WithoutCancel(t.Context()), world.Program{
		Path: "unshare", Args: append(asContainer(c, binary), deployedArgs(c, config)...), Env: env, Mode: world.IPTables,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.proxy = p
	b.await(t)
	b.answersFrom(t, netns.TCP, pod(2), at(clusterIP(1), 80)...)

	const user = "system:serviceaccount:kube-system:fairlead"
	granted := grants(t, b.roleRules(t, objects)...)
	within(t, 30*time.Second, func() error {
		if !b.asked(t, user)["create events.events.k8s.io"] {
			return errors.New("no Event was sent")
		}
		return nil
	})
	for ask := range b.asked(t, user) {
		if !granted[ask] {
			t.Errorf("fairlead asks to %s, and no role in deploy/kustomize lets it", ask)
		}
		delete(granted, ask)
	}
	// For API servers that have no watch that begins with what there is.
	for _, resource := range []string{"services", "endpointslices.discovery.k8s.io", "nodes"} {
		delete(granted, "list "+resource)
	}
	if len(granted) > 0 {
		t.Errorf("fairlead may do what it was not seen to do: %v", granted)
	}
	if strings.Contains(p.Output(), "orbidden") {
		t.Errorf("something was forbidden:\n%s", p.Tail(20))
	}
	b.nothingElse(t, secrets, b.roleRules(t, objects))
	b.stop(t)
	b.cleanUpAs(t, c, binary, env)
}

// roleRules are the rules of all roles among objects.
func (b *deployBed) roleRules(t *testing.T, objects []*unstructured.Unstructured) []rbacv1.PolicyRule {
	t.Helper()
	var out []rbacv1.PolicyRule
	for _, o := range objects {
		if o.GetKind() != "ClusterRole" && o.GetKind() != "Role" {
			continue
		}
		var role rbacv1.ClusterRole
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &role); err != nil {
			t.Fatal(err)
		}
		out = append(out, role.Rules...)
	}
	return out
}

// grants are the verbs and resources of rules, as asked lists them.
func grants(t *testing.T, rules ...rbacv1.PolicyRule) map[string]bool {
	t.Helper()
	out := make(map[string]bool)
	for _, r := range rules {
		if len(r.ResourceNames) > 0 || len(r.NonResourceURLs) > 0 || len(r.APIGroups) != 1 {
			t.Errorf("a rule of a kind that is not looked at: %v", r)
		}
		for _, resource := range r.Resources {
			for _, verb := range r.Verbs {
				out[verb+" "+strings.TrimSuffix(resource+"."+r.APIGroups[0], ".")] = true
			}
		}
	}
	return out
}

// asked lists what a user has asked of the API server, and was not denied.
func (b *deployBed) asked(t *testing.T, user string) map[string]bool {
	t.Helper()
	file, err := os.Open(b.audit)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out := make(map[string]bool)
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb           string
			User           struct{ Username string }
			ObjectRef      *struct{ Resource, Subresource, APIGroup string }
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the last line may be half written
		}
		if e.User.Username != user || e.ObjectRef == nil {
			continue
		}
		if strings.HasPrefix(e.ObjectRef.Resource, "selfsubject") {
			continue // the test itself
		}
		if e.ResponseStatus.Code == 403 {
			t.Errorf("%s was denied: %s", user, lines.Text())
			continue
		}
		out[e.Verb+" "+strings.TrimSuffix(e.ObjectRef.Resource+"."+e.ObjectRef.APIGroup, ".")] = true
	}
	return out
}

// serviceAccount gets a token, and returns the folder that a kubelet would make of it.
func (b *deployBed) serviceAccount(t *testing.T, name string) string {
	t.Helper()
	got, err := b.api.Client.CoreV1().ServiceAccounts("kube-system").CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for file, data := range map[string][]byte{
		"token": []byte(got.Status.Token), "namespace": []byte("kube-system"), "ca.crt": b.api.ControlPlane.RESTConfig().CAData,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// podEnv is the environment of a pod that has a ServiceAccount.
func (b *deployBed) podEnv(t *testing.T, secrets string) []string {
	t.Helper()
	host, err := url.Parse(b.api.ControlPlane.RESTConfig().Host)
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		"XTABLES_LOCKFILE=/run/xtables.lock", "SECRETS=" + secrets,
		"KUBERNETES_SERVICE_HOST=" + host.Hostname(), "KUBERNETES_SERVICE_PORT=" + host.Port(),
	}
}

// nothingElse asks the API server what the ServiceAccount may do, beside what everybody
// may.
func (b *deployBed) nothingElse(t *testing.T, secrets string, rules []rbacv1.PolicyRule) {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(secrets, "token"))
	if err != nil {
		t.Fatal(err)
	}
	rc := b.api.ControlPlane.RESTConfig()
	rc.BearerToken, rc.TLSClientConfig = string(token), rest.TLSClientConfig{CAData: rc.CAData}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		t.Fatal(err)
	}
	review, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "kube-system"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, r := range review.Status.ResourceRules {
		if strings.HasPrefix(r.Resources[0], "selfsubject") {
			continue
		}
		got = append(got, fmt.Sprint(r.Verbs, r.APIGroups, r.Resources, r.ResourceNames))
	}
	for _, r := range rules {
		want = append(want, fmt.Sprint(r.Verbs, r.APIGroups, r.Resources, r.ResourceNames))
	}
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("what the ServiceAccount may do (-got +want):\n%s", d)
	}
}
