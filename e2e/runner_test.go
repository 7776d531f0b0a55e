//go:build linux

package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// selfCase is true as it stands; each of lies replaces a line by a false one.
const selfCase = `# The runner finds out what is not true.
covers x/y
objects all.yaml
flow tcp pod 10.244.1.9       -> 10.96.0.10:80       forward 10.244.1.4:8080 10.244.2.5:8080
flow udp pod 10.244.1.9       -> 10.96.0.10:53       forward 10.244.1.4:8053
flow tcp outside 198.51.100.1 -> 203.0.113.7:80      drop
flow tcp pod 10.244.1.9       -> 203.0.113.8:80      reject
flow tcp outside 198.51.100.1 -> 172.18.0.11:31000   pass
flow tcp host                 -> 10.96.0.10:80       forward 10.244.1.4:8080 10.244.2.5:8080 masq
health default/web 30901 IPv4 1
health default/web 30901 IPv6 0
-- all.yaml --
apiVersion: v1
kind: Service
metadata: {namespace: default, name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:10:96::10"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  healthCheckNodePort: 30901
  loadBalancerSourceRanges: [198.51.100.9/32]
  ports:
  - {name: http, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: dns, protocol: UDP, port: 53, targetPort: 8053, nodePort: 30053}
status:
  loadBalancer: {ingress: [{ip: 203.0.113.7, ipMode: VIP}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: default, name: nothing}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.11
  clusterIPs: [10.96.0.11]
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  externalIPs: [203.0.113.8]
  ports:
  - {name: http, protocol: TCP, port: 80, targetPort: 8080}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-http, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {name: http, protocol: TCP, port: 8080}
endpoints:
- {addresses: [10.244.1.4], nodeName: n1}
- {addresses: [10.244.2.5], nodeName: n2}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-dns, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {name: dns, protocol: UDP, port: 8053}
endpoints:
- {addresses: [10.244.1.4], nodeName: n1}
`

// A lie replaces a piece of selfCase.
type lie struct {
	name, old, new string
	line           int    // where a failure must be reported
	want           string // part of it; empty for none
}

// TestRunnerFindsLies plays a true case, which must pass, and the same with one
// thing that is not so, which must fail, and only there.
func TestRunnerFindsLies(t *testing.T) {
	binary := requireWorld(t)
	w := newWorld(t, world.Config{})
	r := world.Runner{World: w, Source: newManifests(t, w), Program: world.Fairlead(binary, "nft"), Lag: 2 * time.Second}
	lies := []lie{
		{name: "nothing"},
		{"a hop less", "10.96.0.10:80       forward 10.244.1.4:8080 10.244.2.5:8080\n", "10.96.0.10:80 forward 10.244.1.4:8080\n", 4, "none of the hops"},
		{"masqueraded", "forward 10.244.1.4:8053\n", "forward 10.244.1.4:8053 masq\n", 5, "want an address of n1"},
		{"not masqueraded", "10.244.2.5:8080 masq\n", "10.244.2.5:8080\n", 9, "want the caller"},
		{"rejected, not dropped", "203.0.113.7:80      drop", "203.0.113.7:80      reject", 6, "want it refused"},
		{"dropped, not rejected", "203.0.113.8:80      reject", "203.0.113.8:80      drop", 7, "want it dropped"},
		{"left alone, not rejected", "203.0.113.8:80      reject", "203.0.113.8:80      pass", 7, "want an answer of the destination"},
		{"rejected, not left alone", "172.18.0.11:31000   pass", "172.18.0.11:31000   reject", 8, "want it refused"},
		{"forwarded, not dropped", "203.0.113.7:80      drop", "203.0.113.7:80      forward 10.244.1.4:8080", 6, "want an answer of an endpoint"},
		{"healthier", "IPv4 1", "IPv4 2", 10, "want 200, 2 of"},
		{"healthy in another family", "IPv6 0", "IPv6 1", 11, "want 200, 1 of"},
		{"a problem", "health default/web 30901 IPv4 1", "problem Service default/web FrontendConflict\nhealth default/web 30901 IPv4 1", 1, "does not complain"},
	}
	for _, l := range lies {
		t.Run(l.name, func(t *testing.T) { l.tell(t, r) })
	}
}

func (l lie) tell(t *testing.T, r world.Runner) {
	text := strings.Replace(selfCase, l.old, l.new, 1)
	if l.want != "" && text == selfCase {
		t.Fatal("the case does not contain what is to be replaced")
	}
	c, err := servicetest.Parse("self", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := r.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	found := slices.ContainsFunc(rep.Failures, func(f world.Failure) bool {
		return f.Line == l.line && strings.Contains(f.Err.Error(), l.want)
	})
	if l.want != "" && !found {
		t.Errorf("no failure at line %d with %q", l.line, l.want)
	}
	for _, f := range rep.Failures {
		if f.Line != l.line || l.want == "" {
			t.Errorf("unexpected: %v", f)
		}
	}
}

// TestRunnerFindsUnreadyProxy holds that a proxy that ends is reported with what
// it said.
func TestRunnerFindsUnreadyProxy(t *testing.T) {
	requireWorld(t)
	w := newWorld(t, world.Config{})
	r := world.Runner{World: w, Source: newManifests(t, w), Program: world.Program{Path: "sh", Args: []string{"-c", "echo I give up; exit 3", "--"}}}
	c, err := servicetest.Parse("self", []byte(selfCase))
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Run(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "I give up") {
		t.Errorf("got %v, want an error that quotes the proxy", err)
	}
}
