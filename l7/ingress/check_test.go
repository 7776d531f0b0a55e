package ingress

import (
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

func TestCheckHost(t *testing.T) {
	for _, good := range []string{"a", "a.com", "*.a.com", "x-1.a.com", "1.com", strings.Repeat("a", 63) + ".com"} {
		if err := checkHost(good); err != nil {
			t.Errorf("checkHost(%q): %v", good, err)
		}
	}
	for _, bad := range []string{
		"*", "*.", "*.*.com", "a.*", "*a.com", "a*.com", "a.com.", ".a.com", "a..com", "-a.com", "a-.com", "A.com", "a_b.com", "a b", "a.com:80",
		"192.0.2.1", "2001:db8::1", "[::1]", "a/b", "é.com", "a\n", strings.Repeat("a", 64), strings.Repeat("a.", 130) + "com",
	} {
		if checkHost(bad) == nil {
			t.Errorf("checkHost(%q) accepts it", bad)
		}
	}
}

func TestCheckBackend(t *testing.T) {
	for _, tc := range []struct {
		backend Backend
		reason  string
	}{
		{Backend{Service: "web", Port: Port{Number: 80}}, ""},
		{Backend{Service: "web", Port: Port{Number: 65535}}, ""},
		{Backend{Service: "web", Port: Port{Name: "http-1"}}, ""},
		{Backend{Service: "web"}, "InvalidBackend"},
		{Backend{Service: "web", Port: Port{Number: 65536}}, "InvalidBackend"},
		{Backend{Service: "web", Port: Port{Number: -1}}, "InvalidBackend"},
		{Backend{Service: "web", Port: Port{Name: "http", Number: 80}}, "InvalidBackend"},
		{Backend{Service: "web", Port: Port{Name: "HTTP"}}, "InvalidBackend"},
		{Backend{Service: "web", Port: Port{Name: "80"}}, "InvalidBackend"},
		{Backend{Service: "web", Port: Port{Name: "a--b"}}, "InvalidBackend"},
		{Backend{Service: "web", Port: Port{Name: "sixteen-letters-"}}, "InvalidBackend"},
		{Backend{Service: "", Port: Port{Number: 80}}, "InvalidBackend"},
		{Backend{Service: "other/web", Port: Port{Number: 80}}, "InvalidBackend"},
		{Backend{Resource: "a/b/c"}, "UnsupportedResourceBackend"},
		{Backend{Service: "web", Resource: "a/b/c", Port: Port{Number: 80}}, "InvalidBackend"},
	} {
		if got, err := checkBackend(&tc.backend); got != tc.reason || (err != nil) != (tc.reason != "") {
			t.Errorf("checkBackend(%+v) = %q, %v; want %q", tc.backend, got, err, tc.reason)
		}
	}
}

func TestMatcherOf(t *testing.T) {
	for _, tc := range []struct {
		path  Path
		d     route.Dialect
		regex bool
		kind  route.Kind
		want  string // "" means an error
	}{
		{Path{Path: "/a", Type: Exact}, route.Strict, false, route.Exact, "/a"},
		{Path{Path: "/a/", Type: Prefix}, route.Strict, false, route.Prefix, "/a/"},
		{Path{Path: "/%7ea", Type: Prefix}, route.Strict, false, route.Prefix, "/~a"},
		{Path{Path: "/a b", Type: Prefix}, route.Strict, false, 0, ""},
		{Path{Path: "/é", Type: Prefix}, route.Strict, false, route.Prefix, "/%C3%A9"},
		{Path{Path: "", Type: Prefix}, route.Strict, false, 0, ""},
		{Path{Path: "", Type: ImplementationSpecific}, route.Strict, false, route.Prefix, "/"},
		{Path{Path: "", Type: ImplementationSpecific}, route.Nginx, false, route.String, "/"},
		{Path{Path: "/a//b", Type: ImplementationSpecific}, route.Nginx, false, route.String, "/a/b"},
		{Path{Path: "/a//b", Type: ImplementationSpecific}, route.Strict, false, route.Prefix, "/a//b"},
		{Path{Path: "//b", Type: ImplementationSpecific}, route.Strict, false, 0, ""},
		{Path{Path: "/a/../b", Type: ImplementationSpecific}, route.Nginx, false, 0, ""},
		{Path{Path: "/a\n", Type: ImplementationSpecific}, route.Strict, false, 0, ""},
		{Path{Path: "/a(.*)", Type: ImplementationSpecific}, route.Strict, true, route.Regex, "/a(.*)"},
		{Path{Path: "/a(?!b)", Type: ImplementationSpecific}, route.Strict, true, 0, ""},
		{Path{Path: "a", Type: ImplementationSpecific}, route.Nginx, true, 0, ""},
		{Path{Path: "/a\x00", Type: ImplementationSpecific}, route.Nginx, true, 0, ""},
		{Path{Path: "/a", Type: "exact"}, route.Strict, false, 0, ""},
		{Path{Path: "/" + strings.Repeat("a", maxPath), Type: Exact}, route.Strict, false, 0, ""},
	} {
		m, err := matcherOf(&tc.path, tc.d, tc.regex)
		if m.kind != tc.kind || m.path != tc.want || (err != nil) != (tc.want == "") || (m.re != nil) != (tc.regex && err == nil) {
			t.Errorf("matcherOf(%+v, %v, %v) = %v %q, %v; want %v %q", tc.path, tc.d, tc.regex, m.kind, m.path, err, tc.kind, tc.want)
		}
	}
}

func TestChoosePort(t *testing.T) {
	ports := []ServicePort{{Name: "dns", Number: 53, Protocol: service.UDP}, {Name: "http", Number: 80}, {Name: "both", Number: 53}, {Name: "sctp", Number: 99, Protocol: service.SCTP}}
	for _, tc := range []struct {
		want  Port
		ports []ServicePort
		index int // -1: an error
	}{
		{Port{}, ports, 1},
		{Port{Number: 80}, ports, 1},
		{Port{Name: "http"}, ports, 1},
		{Port{Number: 53}, ports, 2},
		{Port{Name: "dns"}, ports, -1},
		{Port{Number: 99}, ports, -1},
		{Port{Number: 81}, ports, -1},
		{Port{Name: "80"}, ports, -1},
		{Port{}, nil, -1},
		{Port{}, ports[:1], -1},
	} {
		if got, err := ChoosePort(tc.want, tc.ports); got != tc.index || (err != nil) != (tc.index < 0) {
			t.Errorf("ChoosePort(%+v) = %d, %v; want %d", tc.want, got, err, tc.index)
		}
	}
}

func TestParseCertificateRefuses(t *testing.T) {
	for name, data := range map[string]map[string][]byte{
		"empty":  {},
		"no key": {"tls.crt": []byte("x")},
		"no PEM": {"tls.crt": []byte("x"), "tls.key": []byte("y")},
	} {
		if c, err := ParseCertificate(&Secret{Data: data}); err == nil {
			t.Errorf("%s: got %v, want an error", name, c)
		}
	}
}

// FuzzBuild feeds what a hostile user writes. Nothing may panic, and nothing that leads anywhere may have
// come out unchecked.
func FuzzBuild(f *testing.F) {
	f.Add("a.com", "/x", "Exact", "web", "http", "nginx", "true", "/$1")
	f.Add("*.a.com", "/x(.*)", "ImplementationSpecific", "web", "", "fairlead", "true", "/$1")
	f.Add("", "/a\r\nb", "Prefix", "web", "", "fairlead", "", "\"; evil")
	f.Add("a.com", "//x/../y", "ImplementationSpecific", "../web", "", "nginx", "x", "/\x00")
	f.Fuzz(func(t *testing.T, host, path, typ, svc, port, class, regex, rewrite string) {
		in := &Ingress{
			Name: service.Name{Namespace: "n", Name: "i"}, Class: class,
			Annotations: map[string]string{
				annotation.NginxPrefix + "use-regex": regex, annotation.NginxPrefix + "rewrite-target": rewrite,
				annotation.NginxPrefix + "server-alias": host, annotation.OwnPrefix + "from-to-www-redirect": regex,
			},
			Rules: []Rule{{Host: host, Paths: []Path{{Path: path, Type: PathType(typ), Backend: Backend{Service: svc, Port: Port{Name: port}}}}}},
			TLS:   []TLS{{Hosts: []string{host}, Secret: svc}},
		}
		m := Build(Objects{Ingresses: []*Ingress{in}, Classes: []*Class{{Name: class, Controller: NginxController}}}, Config{Classes: DefaultClasses(true)})
		for name, h := range m.Hosts {
			if name != "" && checkHost(name) != nil {
				t.Errorf("host %q is served", name)
			}
			for _, r := range h.Routes {
				if strings.ContainsAny(r.Match, "\x00\r\n") || !strings.HasPrefix(r.Match, "/") {
					t.Errorf("path %q is served", r.Match)
				}
				if r.Refused == "" && r.WWW == "" && !isLabel(r.Backend.Service.Name) {
					t.Errorf("backend %q is served", r.Backend)
				}
			}
			Compile(h, func(r *Route) *Route { return r }).Lookup(path)
		}
	})
}
