//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/service"
)

// TestL7API lets the side of L7 that talks to the API server do so, with the rights of
// deploy/l7 and no others. Two candidates are elected from, and see the same.
func TestL7API(t *testing.T) {
	a := newL7API(t)
	if n := a.deploy(t, "base", false); n < 9 {
		t.Fatalf("deploy/l7/base has only %d objects", n)
	}
	t.Run("manifests", a.testManifests)
	t.Run("process", a.testProcess)
	t.Run("nodes", a.testNodes)
	one := a.startCandidate(t, "one", "203.0.113.10")
	within(t, 20*time.Second, leads(one))
	two := a.startCandidate(t, "two", "203.0.113.10")

	t.Run("events", func(t *testing.T) { a.testEvents(t, one, two) }) // before there are more than can be written at once
	t.Run("classes", func(t *testing.T) { a.testClasses(t, one, two) })
	t.Run("default class", func(t *testing.T) { a.testDefaultClass(t, two) })
	t.Run("secrets", func(t *testing.T) { a.testSecrets(t, two) })
	t.Run("many secrets", func(t *testing.T) { a.testManySecrets(t, two) })
	t.Run("class loss", a.testClassLoss)
	two.stop()
	heir := a.startCandidate(t, "heir", "lb.example.com, 2001:db8:113::10, 203.0.113.11")
	t.Run("failover", func(t *testing.T) { a.testFailover(t, one, heir) })
	for _, c := range []*candidate{one, two, heir} { // before the outage: an API server that has just started forbids everything
		if strings.Contains(c.log.String(), "orbidden") {
			t.Errorf("%s: the rights of deploy/l7 are not enough", c.name)
		}
	}
	t.Run("outage", func(t *testing.T) { a.testOutage(t, heir) })
}

func leads(c *candidate) func() error {
	return func() error {
		if !c.isLeader() {
			return fmt.Errorf("%s does not lead", c.name)
		}
		return nil
	}
}

// testManifests has the API server check everything else that deploy/l7 offers.
func (a *l7API) testManifests(t *testing.T) {
	for folder, least := range map[string]int{"edge": 1, "service": 2, "examples": 7} {
		if n := a.deploy(t, folder, true); n < least {
			t.Errorf("deploy/l7/%s has only %d objects, want %d at least", folder, n, least)
		}
	}
}

// testProcess runs fairlead l7 itself, with the arguments of deploy/l7, the rights of its
// ServiceAccount and those of its user.
func (a *l7API) testProcess(t *testing.T) {
	ns := a.namespace(t, "process")
	a.create(t, route(ns, "web", "fairlead", "web.example.com"))
	p := a.startL7(t, l7Args(t, "service"), "--publish-service=", "--publish-status-address=203.0.113.10")
	within(t, 30*time.Second, func() error { return p.answers("healthz", "/readyz", "", http.StatusOK) })
	a.hasStatus(t, ns, "web", "203.0.113.10")
	for host, want := range map[string]int{
		"web.example.com":  http.StatusServiceUnavailable, // there is no such Service
		"none.example.com": http.StatusNotFound,
	} {
		if err := p.answers("http", "/", host, want); err != nil {
			t.Error(err)
		}
	}
	p.stop(t)
	if out := p.log.String(); strings.Contains(out, "orbidden") {
		t.Errorf("the rights of deploy/l7 are not enough:\n%s", out)
	}
	if got := a.status(t, ns, "web"); got != "203.0.113.10" {
		t.Errorf("status after the end of the process: %q, want it to stay", got)
	}
	edge := exec.CommandContext(t.Context(), p.binary, append(l7Args(t, "edge"), "--version")...)
	if out, err := edge.CombinedOutput(); err != nil {
		t.Errorf("the arguments of deploy/l7/edge: %v\n%s", err, out)
	}
}

// testClasses wants only Ingresses of our class to be served, and to have a status.
func (a *l7API) testClasses(t *testing.T, candidates ...*candidate) {
	ns := a.namespace(t, "classes")
	a.create(t, route(ns, "ours", "fairlead", "ours.example.com"))
	a.create(t, route(ns, "theirs", "nginx", "theirs.example.com"))
	a.create(t, route(ns, "nobodys", "", "nobodys.example.com"))
	legacy := route(ns, "legacy", "", "legacy.example.com")
	legacy.Annotations = map[string]string{"kubernetes.io/ingress.class": "fairlead"}
	a.create(t, legacy)
	a.create(t, route(ns, "later", "later", "later.example.com"))
	for _, c := range candidates {
		c.serves(t, ns, "ours", "legacy")
	}
	a.hasStatus(t, ns, "ours", "203.0.113.10")
	a.hasStatus(t, ns, "legacy", "203.0.113.10")

	classes := a.admin.NetworkingV1().IngressClasses()
	class := &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: "later"},
		Spec:       networkingv1.IngressClassSpec{Controller: "fairlead.io/ingress"},
	}
	if _, err := classes.Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a.hasStatus(t, ns, "later", "203.0.113.10")
	if err := classes.Delete(t.Context(), "later", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	a.hasStatus(t, ns, "later", "")
	for _, c := range candidates {
		c.serves(t, ns, "ours", "legacy")
	}
	for _, name := range []string{"theirs", "nobodys"} {
		if got := a.status(t, ns, name); got != "" {
			t.Errorf("Ingress %s has the status %q, want none: it is not ours", name, got)
		}
	}
}

// testDefaultClass leaves the class to the admission of the API server.
func (a *l7API) testDefaultClass(t *testing.T, c *candidate) {
	ns := a.namespace(t, "default-class")
	mark := func(value string) {
		t.Helper()
		class, err := a.admin.NetworkingV1().IngressClasses().Get(t.Context(), "fairlead", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		class.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: value}
		if _, err := a.admin.NetworkingV1().IngressClasses().Update(t.Context(), class, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mark("true")
	defer mark("false")
	within(t, 10*time.Second, func() error { // the admission plugin has a watch of its own
		made := a.create(t, route(ns, "any", "", "any.example.com"))
		if made.Spec.IngressClassName != nil && *made.Spec.IngressClassName == "fairlead" {
			return nil
		}
		if err := a.admin.NetworkingV1().Ingresses(ns).Delete(t.Context(), "any", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		return fmt.Errorf("admission has not set the class")
	})
	c.serves(t, ns, "any")
	a.hasStatus(t, ns, "any", "203.0.113.10")
}

// testSecrets changes, removes and brings back a Secret that is named, beside one that is
// not and is never read.
func (a *l7API) testSecrets(t *testing.T, c *candidate) {
	ns := a.namespace(t, "secrets")
	named := service.Name{Namespace: ns, Name: "named"}
	a.putSecret(t, ns, "named", "first")
	a.putSecret(t, ns, "private", "nobody's business")
	a.create(t, route(ns, "tls", "fairlead", "tls.example.com", "named"))
	a.create(t, route(ns, "theirs", "nginx", "theirs.example.com", "private"))
	c.serves(t, ns, "tls")
	c.knows(t, named, "auth", "first")
	a.putSecret(t, ns, "named", "second")
	c.knows(t, named, "auth", "second")
	if err := a.admin.CoreV1().Secrets(ns).Delete(t.Context(), "named", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.knows(t, named, "auth", "(none)")
	a.putSecret(t, ns, "named", "third")
	c.knows(t, named, "auth", "third")

	a.change(t, ns, "tls", func(o *networkingv1.Ingress) { o.Spec.TLS[0].SecretName = "other" })
	c.knows(t, named, "auth", "(none)") // nobody names it any more
	a.putSecret(t, ns, "other", "fourth")
	c.knows(t, service.Name{Namespace: ns, Name: "other"}, "auth", "fourth")
	if d := cmp.Diff(c.handed(ns), []string{"named", "other"}); d != "" {
		t.Errorf("Secrets that were read (-got +want):\n%s", d)
	}
}

// testManySecrets names so many that the namespace is watched as a whole.
func (a *l7API) testManySecrets(t *testing.T, c *candidate) {
	ns := a.namespace(t, "many")
	a.putSecret(t, ns, "private", "nobody's business")
	var names, want []string
	for i := range 40 {
		name := fmt.Sprintf("s%02d", i)
		a.putSecret(t, ns, name, "first")
		a.create(t, route(ns, name, "fairlead", name+".example.com", name))
		names, want = append(names, name), append(want, name)
	}
	c.serves(t, ns, names...)
	for _, name := range names {
		c.knows(t, service.Name{Namespace: ns, Name: name}, "auth", "first")
	}
	for _, name := range names[:10] {
		a.putSecret(t, ns, name, "second")
	}
	for _, name := range names[10:20] {
		if err := a.admin.CoreV1().Secrets(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range names {
		value := "first"
		if i < 10 {
			value = "second"
		} else if i < 20 {
			value = "(none)"
		}
		c.knows(t, service.Name{Namespace: ns, Name: name}, "auth", value)
	}
	slices.Sort(want)
	if d := cmp.Diff(c.handed(ns), want); d != "" {
		t.Errorf("Secrets that were read (-got +want):\n%s", d)
	}
}

// testClassLoss gives Ingresses to another class: what we have written is cleared,
// what others have written is not.
func (a *l7API) testClassLoss(t *testing.T) {
	ns := a.namespace(t, "loss")
	other := "nginx"
	a.create(t, route(ns, "lost", "fairlead", "lost.example.com"))
	a.create(t, route(ns, "taken", "fairlead", "taken.example.com"))
	a.create(t, route(ns, "never", "nginx", "never.example.com"))
	a.hasStatus(t, ns, "lost", "203.0.113.10")
	a.hasStatus(t, ns, "taken", "203.0.113.10")
	a.writeStatus(t, ns, "never", "203.0.113.10") // the very same address, by somebody else

	a.change(t, ns, "lost", func(o *networkingv1.Ingress) { o.Spec.IngressClassName = &other })
	a.hasStatus(t, ns, "lost", "")
	a.change(t, ns, "taken", func(o *networkingv1.Ingress) { o.Spec.IngressClassName = &other })
	a.hasStatus(t, ns, "taken", "")
	a.writeStatus(t, ns, "taken", "192.0.2.1")
	a.writeStatus(t, ns, "lost", "203.0.113.10")

	// A write to an Ingress that is ours would be seen before this one.
	a.create(t, route(ns, "marker", "fairlead", "marker.example.com"))
	a.hasStatus(t, ns, "marker", "203.0.113.10")
	for name, want := range map[string]string{"never": "203.0.113.10", "taken": "192.0.2.1", "lost": "203.0.113.10"} {
		if got := a.status(t, ns, name); got != want {
			t.Errorf("Ingress %s, which is not ours: status %q, want %q", name, got, want)
		}
	}
}

func (a *l7API) writeStatus(t *testing.T, ns, name, ip string) {
	t.Helper()
	client := a.admin.NetworkingV1().Ingresses(ns)
	o, err := client.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: ip}}
	if _, err := client.UpdateStatus(t.Context(), o, metav1.UpdateOptions{FieldManager: "other"}); err != nil {
		t.Fatal(err)
	}
}

// testEvents wants one Event about a conflict, by the leader, at the younger Ingress.
func (a *l7API) testEvents(t *testing.T, leader, other *candidate) {
	ns := a.namespace(t, "events")
	a.create(t, route(ns, "a-older", "fairlead", "shared.example.com"))
	leader.serves(t, ns, "a-older")
	a.create(t, route(ns, "b-younger", "fairlead", "shared.example.com"))
	list := func() (out []string) {
		t.Helper()
		events, err := a.admin.EventsV1().Events(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			out = append(out, fmt.Sprintf("%s %s %s by %s", e.Regarding.Kind, e.Regarding.Name, e.Reason, e.ReportingInstance))
		}
		return out
	}
	want := []string{"Ingress b-younger Conflict by " + leader.name}
	within(t, 20*time.Second, func() error {
		if d := cmp.Diff(list(), want); d != "" {
			return fmt.Errorf("Events (-got +want):\n%s", d)
		}
		return nil
	})
	within(t, 10*time.Second, func() error { // the other one has found the same
		for _, p := range other.problems.Known() {
			if p.Object.Name.Name == "b-younger" {
				return nil
			}
		}
		return fmt.Errorf("%s does not know of the conflict", other.name)
	})
	if d := cmp.Diff(list(), want); d != "" {
		t.Errorf("Events, once both know (-got +want):\n%s", d)
	}
}

// testFailover ends the leader. Its heir has other addresses to publish.
func (a *l7API) testFailover(t *testing.T, leader, heir *candidate) {
	ns := a.namespace(t, "failover")
	a.create(t, route(ns, "one", "fairlead", "one.example.com"))
	a.hasStatus(t, ns, "one", "203.0.113.10")
	heir.serves(t, ns, "one")
	if heir.isLeader() || a.status(t, ns, "one") != "203.0.113.10" {
		t.Fatalf("there is a leader; heir leads: %v, status %q", heir.isLeader(), a.status(t, ns, "one"))
	}
	leader.stop()
	within(t, 20*time.Second, leads(heir))
	a.hasStatus(t, ns, "one", "lb.example.com,203.0.113.11,2001:db8:113::10")
	a.create(t, route(ns, "two", "fairlead", "two.example.com"))
	a.hasStatus(t, ns, "two", "lb.example.com,203.0.113.11,2001:db8:113::10")
}

// testOutage takes the API server away: nothing in force is lost, and everything goes on
// when it is back.
func (a *l7API) testOutage(t *testing.T, c *candidate) {
	ns := a.namespace(t, "outage")
	kept := service.Name{Namespace: ns, Name: "kept"}
	a.putSecret(t, ns, "kept", "first")
	a.create(t, route(ns, "before", "fairlead", "before.example.com", "kept"))
	c.serves(t, ns, "before")
	c.knows(t, kept, "auth", "first")

	if err := a.cluster.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, func() error {
		if !strings.Contains(c.log.String(), "cannot read from the API server") {
			return fmt.Errorf("%s has not noticed", c.name)
		}
		return nil
	})
	c.serves(t, ns, "before")
	c.knows(t, kept, "auth", "first")
	within(t, 30*time.Second, func() error { // it cannot renew its lease
		if c.isLeader() {
			return fmt.Errorf("%s still leads", c.name)
		}
		return nil
	})
	c.serves(t, ns, "before")
	if err := a.cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.putSecret(t, ns, "kept", "second")
	a.create(t, route(ns, "after", "fairlead", "after.example.com"))
	within(t, 60*time.Second, leads(c))
	c.serves(t, ns, "before", "after")
	c.knows(t, kept, "auth", "second")
	a.hasStatus(t, ns, "after", "lb.example.com,203.0.113.11,2001:db8:113::10")
}
