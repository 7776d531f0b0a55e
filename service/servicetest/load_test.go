package servicetest

import (
	"strings"
	"testing"
)

const goodSections = `-- svc.yaml --
apiVersion: v1
kind: Service
metadata:
  namespace: default
  name: web
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  ports:
  - {name: http, port: 80}
-- slice.yaml --
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  namespace: default
  name: web-4
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports:
- {name: http, protocol: TCP, port: 8080}
endpoints:
- {addresses: [10.244.1.4], nodeName: n1}
`

const goodHead = "# It works.\ncovers 1.4/1\n"

func TestParse(t *testing.T) {
	c, err := Parse("x", []byte(goodHead+"node n1 zone=a\nobjects svc.yaml slice.yaml\n"+
		"flow tcp pod fd00:10:244:1::9 -> [fd00:10:96::10]:80 pass\nflow tcp host -> 10.96.0.10:80 forward 10.244.1.4:8080 masq\n"+
		"step gone\ndelete Service default/web\nflow icmp host -> 10.96.0.10 pass\n"+goodSections))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Steps) != 2 || len(c.Steps[0].Flows) != 2 || len(c.Steps[0].Services) != 1 || len(c.Steps[1].Services) != 0 || len(c.Steps[1].Slices) != 1 {
		t.Errorf("steps %+v", c.Steps)
	}
	if c.Doc != "It works." || c.Node.Zone != "a" || c.Steps[1].Name != "gone" {
		t.Errorf("case %+v", c)
	}
	f := c.Steps[0].Flows[0]
	if f.Flow.In != "veth0109" || f.Line != 5 {
		t.Errorf("flow %+v", f)
	}
	if h := c.Steps[0].Flows[1].Want.Hops; len(h) != 1 || !h[0].Masquerade {
		t.Errorf("hops %+v", h)
	}
}

// TestParseErrors has one line for each mistake; the error must name the line.
func TestParseErrors(t *testing.T) {
	objects := "objects svc.yaml slice.yaml\n"
	flow := "flow tcp host -> 10.96.0.10:80 forward 10.244.1.4:8080 masq\n"
	tests := []struct{ name, text, want string }{
		{"unknown directive", goodHead + "flows tcp\n" + objects + flow, `x.txtar:3: unknown directive "flows"`},
		{"no doc", "covers 1.4/1\n" + objects + flow, "x.txtar:1: no leading comment"},
		{"no covers", "# Doc.\n" + objects + flow, "x.txtar:1: no covers"},
		{"unread section", goodHead + "objects svc.yaml\nflow tcp host -> 10.96.0.10:80 reject\n", "no objects directive reads section slice.yaml"},
		{"missing section", goodHead + "objects svc.yaml other.yaml\n", "x.txtar:3: there is no section other.yaml"},
		{"section read twice", goodHead + "objects svc.yaml svc.yaml\n", "x.txtar:3: section svc.yaml is put in force twice"},
		{"unknown hop", goodHead + objects + "flow tcp host -> 10.96.0.10:80 forward 10.244.1.5:8080\n", "x.txtar:4: no slice of this step holds 10.244.1.5:8080"},
		{"foreign caller", goodHead + objects + "flow tcp pod 10.244.2.9 -> 10.96.0.10:80 reject\n", "x.txtar:4: flow: 10.244.2.9 is no pod of the world"},
		{"local outsider", goodHead + objects + "flow tcp outside 10.244.1.9 -> 10.96.0.10:80 reject\n", "is no outside of the world"},
		{"foreign destination", goodHead + objects + "flow tcp host -> 8.8.8.8:80 pass\n", "destination 8.8.8.8 is nowhere"},
		{"families", goodHead + objects + "flow tcp pod fd00:10:244:1::9 -> 10.96.0.10:80 pass\n", "different families"},
		{"hex pod", goodHead + objects + "flow tcp pod fd00:10:244:1::a -> [fd00:10:96::10]:80 pass\n", "is no pod of the world"},
		{"verdict with hops", goodHead + objects + "flow tcp host -> 10.96.0.10:80 drop 10.244.1.4:8080\n", "drop with 1 hops"},
		{"forward to nobody", goodHead + objects + "flow tcp host -> 10.96.0.10:80 forward\n", "forward with 0 hops"},
		{"verdict", goodHead + objects + "flow tcp host -> 10.96.0.10:80 accept\n", `unknown verdict "accept"`},
		{"node option", goodHead + "node n1 colour=red\n" + objects + flow, `x.txtar:3: unknown node option "colour=red"`},
		{"node after objects", goodHead + objects + "node n1 zone=a\n" + flow, "x.txtar:4: node must come before objects"},
		{"prefix with host bits", goodHead + "node n1 nodeports=172.18.0.11/24\n" + objects + flow, "x.txtar:3: 172.18.0.11/24 has host bits"},
		{"delete nothing", goodHead + objects + flow + "step s\ndelete Service default/api\n", "x.txtar:6: there is no Service default/api"},
		{"step without expectation", goodHead + objects + flow + "step s\ndelete Service default/web\n", "x.txtar:5: step expects nothing"},
		{"health", goodHead + objects + "health default/web 30999 IPv5 1\n", `unknown family "IPv5"`},
		{"weight", goodHead + objects + "cluster default/web:http/tcp/IPv4 10.244.1.4:8080*1\n", `x.txtar:4: cluster: weight "1" is not above 1`},
		{"scheduling", goodHead + objects + "scheduling default/web\n", "x.txtar:4: scheduling: want NAMESPACE/NAME"},
		{"port id", goodHead + objects + "serving default/web 10.244.1.4:8080\n", "is not NAMESPACE/NAME"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("x", []byte(tt.text+goodSections))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestParseObjectErrors changes one thing in the good objects.
func TestParseObjectErrors(t *testing.T) {
	head := goodHead + "objects svc.yaml slice.yaml\nflow tcp host -> 10.96.0.10:80 forward 10.244.1.4:8080 masq\n"
	tests := []struct{ name, old, new, want string }{
		{"unknown field", "  ipFamilies: [IPv4]", "  ipFamily: [IPv4]", "unknown field"},
		{"kind", "kind: EndpointSlice", "kind: Endpoints", "unexpected object"},
		{"namespace", "  namespace: default\n  name: web\n", "  name: web\n", "without namespace"},
		{"no type", "  type: ClusterIP\n", "", "spec.type is not explicit"},
		{"range", "10.96.0.10", "10.97.0.10", "outside the service CIDRs"},
		{"node port to allocate", "type: ClusterIP", "type: NodePort", "a node port would be allocated"},
		{"internal node port", "port: 80}", "port: 80, nodePort: 30080}", "nodePort on an internal service"},
		{"family", "addressType: IPv4", "addressType: IPv6", "is not IPv6"},
		{"world", "addresses: [10.244.1.4]", "addresses: [10.245.1.4]", "nowhere in the world"},
		{"privileged", "port: 8080", "port: 808", "privileged ports"},
		{"policy", "  ports:\n  -", "  externalTrafficPolicy: Local\n  ports:\n  -", "without an external address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.ReplaceAll(goodSections, tt.old, tt.new)
			if text == goodSections {
				t.Fatal("nothing replaced")
			}
			_, err := Parse("x", []byte(head+text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}
