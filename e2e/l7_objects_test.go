//go:build linux

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/l7/ingress/ingresstest"
)

// l7Seen is what a server of the test has seen of a request; it is the answer, too.
type l7Seen struct {
	By, From, Method, Proto, Host, URI string
	Header                             http.Header
	Trailer                            http.Header
	Length                             int64 // announced
	Body                               int64 // received
	Text                               string
}

// l7Echo answers with what it sees. A request may ask for a status with the query status=.
func l7Echo(name string, w http.ResponseWriter, r *http.Request) {
	var text strings.Builder
	n, err := io.Copy(&limited{&text, 4096}, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	seen := l7Seen{
		By: name, From: r.RemoteAddr, Method: r.Method, Proto: r.Proto, Host: r.Host, URI: r.RequestURI,
		Header: r.Header, Trailer: r.Trailer, Length: r.ContentLength, Body: n, Text: text.String(),
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Backend", name)
	var status int
	if _, err := fmt.Sscanf(r.URL.Query().Get("status"), "%d", &status); err == nil {
		w.WriteHeader(status)
	}
	_ = json.NewEncoder(w).Encode(&seen)
}

// limited keeps the beginning of what is written.
type limited struct {
	to   *strings.Builder
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.to.Write(p[:n])
	l.left -= n
	return len(p), nil
}

// An l7Answer is what came back to a client.
type l7Answer struct {
	Status  int
	Header  http.Header
	Trailer http.Header
	Proto   string
	TLS     *tls.ConnectionState
	Body    string
	Seen    *l7Seen // nil if it was not l7Echo that answered
}

// ask makes a request.
func ask(client *http.Client, r *http.Request) (*l7Answer, error) {
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	a := &l7Answer{Status: resp.StatusCode, Header: resp.Header, Trailer: resp.Trailer, Proto: resp.Proto, TLS: resp.TLS, Body: string(body)}
	if resp.Header.Get("Content-Type") == "application/json" {
		var seen l7Seen
		if json.Unmarshal(body, &seen) == nil && seen.By != "" {
			a.Seen = &seen
		}
	}
	return a, err
}

// fetch makes a GET with fields, given as "Name: value", which must succeed.
func fetch(t *testing.T, client *http.Client, url string, fields ...string) *l7Answer {
	t.Helper()
	return send(t, client, http.MethodGet, url, "", fields...)
}

// send makes a request with a body, which must succeed.
func send(t *testing.T, client *http.Client, method, url, body string, fields ...string) *l7Answer {
	t.Helper()
	var from io.Reader
	if body != "" {
		from = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		if name == "Host" {
			r.Host = value
		} else {
			r.Header.Add(name, value)
		}
	}
	a, err := ask(client, r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return a
}

// An l7Folder is a folder of manifests.
type l7Folder struct {
	dir    string
	marker netip.AddrPort // who answers for markers
	marks  int
}

func (b *l7Bed) newFolder(t *testing.T, name string) *l7Folder {
	t.Helper()
	f := &l7Folder{dir: filepath.Join(b.home, name)}
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if b.folder != nil {
		f.marker = b.folder.marker
		return f
	}
	f.marker = netip.AddrPortFrom(b.pod(t, b.Nodes[0], 60).v4(), 8080)
	return f
}

// put writes objects, in place of what the file had before. Without objects the file goes.
func (f *l7Folder) put(t *testing.T, file string, objects ...any) {
	t.Helper()
	var docs []string
	for _, o := range objects {
		if text, ok := o.(string); ok {
			docs = append(docs, text)
			continue
		}
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, string(text))
	}
	path := filepath.Join(f.dir, file+".yaml")
	if len(docs) == 0 {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path+".new", []byte(strings.Join(docs, "\n---\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// mark writes a marker: an Ingress and a Service that come last. Who answers for it has everything else in force.
func (f *l7Folder) mark(t *testing.T) string {
	t.Helper()
	f.marks++
	name := fmt.Sprintf("marker-%d", f.marks)
	class := l7Class("fairlead-marker", "fairlead.io/ingress")
	in := l7Ingress("marker/"+name, name+".test", map[string]string{"fairlead.io/enable-global-auth": "false"}, l7Path{path: "/", service: name})
	in.Spec.IngressClassName = &class.Name
	f.put(t, "zz-marker", append(l7Service("marker/"+name, "", 80, int(f.marker.Port()), l7Endpoint{addr: f.marker.Addr()}), class, in)...)
	return name + ".test"
}

// settle waits until all that was written is in force.
func (f *l7Folder) settle(t *testing.T, proxies ...*l7Proxy) {
	t.Helper()
	host := f.mark(t)
	for _, p := range proxies {
		p.answers(t, host)
	}
}

// answers waits until the proxy serves a host.
func (p *l7Proxy) answers(t *testing.T, host string) {
	t.Helper()
	client := p.client()
	defer client.CloseIdleConnections()
	within(t, 20*time.Second, func() error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/", nil)
		if err != nil {
			return err
		}
		a, err := ask(client, r)
		if err != nil {
			return err
		}
		if a.Seen == nil || a.Seen.Host != host { // a catch-all may answer for others
			return fmt.Errorf("%s: status %d", host, a.Status)
		}
		return nil
	})
}

func cut(name string) metav1.ObjectMeta {
	namespace, name, ok := strings.Cut(name, "/")
	if !ok {
		namespace, name = "default", namespace
	}
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// An l7Endpoint is an endpoint of a Service.
type l7Endpoint struct {
	addr        netip.Addr
	unready     bool
	terminating bool // and serving unless it is unready, too
}

func endpoints(pods ...*l7Pod) []l7Endpoint {
	out := make([]l7Endpoint, len(pods))
	for i, p := range pods {
		out[i].addr = p.v4()
	}
	return out
}

// l7Service is a Service with one port called http, and its EndpointSlice. An empty ip makes it headless.
func l7Service(name, ip string, port, target int, eps ...l7Endpoint) []any {
	if ip == "" {
		ip = corev1.ClusterIPNone
	}
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: cut(name),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: int32(port)}},
		},
	}
	slice := l7Slice(name, target, eps...)
	if ip == corev1.ClusterIPNone {
		slice.Labels[corev1.IsHeadlessService] = ""
	}
	return []any{s, slice}
}

func l7Slice(name string, target int, eps ...l7Endpoint) *discoveryv1.EndpointSlice {
	port, portName, tcp := int32(target), "http", corev1.ProtocolTCP
	m := cut(name)
	slice := &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta:  metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: m.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &tcp}},
	}
	for _, e := range eps {
		ready, serving, terminating := !e.unready && !e.terminating, !e.unready, e.terminating
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{e.addr.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		})
	}
	return slice
}

// An l7Path is a path of a rule; without a type it is a Prefix.
type l7Path struct {
	path    string
	kind    networkingv1.PathType
	service string
}

func l7Class(name, controller string) *networkingv1.IngressClass {
	return &networkingv1.IngressClass{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "IngressClass"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       networkingv1.IngressClassSpec{Controller: controller},
	}
}

// l7Ingress is an Ingress of class fairlead with one host, whose backends are at port 80.
func l7Ingress(name, host string, notes map[string]string, paths ...l7Path) *networkingv1.Ingress {
	class := "fairlead"
	in := &networkingv1.Ingress{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "Ingress"},
		ObjectMeta: cut(name),
		Spec:       networkingv1.IngressSpec{IngressClassName: &class},
	}
	in.Annotations = notes
	rule := networkingv1.IngressRule{Host: host}
	rule.HTTP = &networkingv1.HTTPIngressRuleValue{}
	for _, p := range paths {
		kind := p.kind
		if kind == "" {
			kind = networkingv1.PathTypePrefix
		}
		rule.HTTP.Paths = append(rule.HTTP.Paths, networkingv1.HTTPIngressPath{
			Path: p.path, PathType: &kind,
			Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
				Name: p.service, Port: networkingv1.ServiceBackendPort{Number: 80},
			}},
		})
	}
	in.Spec.Rules = []networkingv1.IngressRule{rule}
	return in
}

// withTLS adds a Secret for the host to an Ingress.
func withTLS(in *networkingv1.Ingress, secret string) *networkingv1.Ingress {
	in.Spec.TLS = append(in.Spec.TLS, networkingv1.IngressTLS{Hosts: []string{in.Spec.Rules[0].Host}, SecretName: secret})
	return in
}

func l7Secret(name string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: cut(name), Type: corev1.SecretTypeOpaque,
		Data: make(map[string][]byte),
	}
	for key, value := range data {
		s.Data[key] = []byte(value)
	}
	if data["tls.crt"] != "" {
		s.Type = corev1.SecretTypeTLS
	}
	return s
}

func l7ConfigMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: cut(name), Data: data,
	}
}

// l7Certificate makes a certificate as a Secret.
func l7Certificate(t *testing.T, name string, hosts ...string) *corev1.Secret {
	t.Helper()
	crt, key, err := ingresstest.Certificate(false, hosts...)
	if err != nil {
		t.Fatal(err)
	}
	return l7Secret(name, map[string]string{"tls.crt": string(crt), "tls.key": string(key), "ca.crt": string(crt)})
}
