package annotation

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest/golden"
)

func ingress(name string, rules []ReportRule, list ...string) ReportIngress {
	annotations := map[string]string{}
	for key, v := range written(list...) {
		annotations[strings.Replace(key, OwnPrefix, NginxPrefix, 1)] = v
	}
	return ReportIngress{Name: service.Name{Namespace: "shop", Name: name}, Annotations: annotations, Rules: rules}
}

func paths(host string, list ...string) []ReportRule {
	var out []ReportRule
	for _, p := range list {
		kind, path, _ := strings.Cut(p, " ")
		out = append(out, ReportRule{Host: host, Type: kind, Path: path})
	}
	return out
}

// TestReportTraps is about the five traps: what ingress-nginx makes of paths, and its own class does not.
func TestReportTraps(t *testing.T) {
	const impl = "ImplementationSpecific"
	for _, c := range []struct {
		name string
		list []ReportIngress
		want []string // of the first: class, subject, a part of the message
	}{
		{"plain", []ReportIngress{ingress("a", paths("h", "Prefix /", "Prefix /a", "Exact /b"))}, nil},
		{"regex of its type", []ReportIngress{ingress("a", paths("h", impl+" /a.*"), "use-regex=true")}, nil},
		{
			"regex ignores the type", []ReportIngress{ingress("a", paths("h", "Exact /a", "Prefix /"), "use-regex=true")},
			[]string{"fairlead|h Exact /a|no longer a pattern that ignores case and matches the beginning of paths, but this path alone; the reason was use-regex"},
		},
		{
			"alternatives", []ReportIngress{ingress("a", paths("h", impl+" /a|/b", impl+" /(a|b)", impl+` /\|[|]`), "use-regex=true")},
			[]string{"fairlead|h " + impl + " /a|/b|only the first"},
		},
		{
			"regex leaks", []ReportIngress{ingress("a", paths("h", "Prefix /a")), ingress("b", paths("h", impl+" /b.*"), "use-regex=true")},
			[]string{"fairlead|h Prefix /a|the reason was use-regex of the Ingress shop/b, which shares the host"},
		},
		{"regex of another host", []ReportIngress{ingress("a", paths("h", "Prefix /a")), ingress("b", paths("i", impl+" /b.*"), "use-regex=true")}, nil},
		{
			"rewrite makes a pattern", []ReportIngress{ingress("a", paths("h", "Prefix /a"), "rewrite-target=/")},
			[]string{"fairlead|h Prefix /a|the reason was rewrite-target"},
		},
		{"rewrite to itself", []ReportIngress{ingress("a", paths("h", "Prefix /a"), "rewrite-target=/a")}, nil},
		{
			"slash at the end", []ReportIngress{ingress("a", paths("h", "Prefix /a/", "Exact /b/"))},
			[]string{"fairlead|h Exact /b/|/b is no longer redirected", "fairlead|h Prefix /a/|/a is served as /a/ is"},
		},
		{"slash at the end, and without", []ReportIngress{ingress("a", paths("h", "Prefix /a/", "Exact /a"))}, nil},
		{"slash in a pattern", []ReportIngress{ingress("a", paths("h", impl+" /a/"), "use-regex=true")}, nil},
		{"string prefix", []ReportIngress{ingress("a", paths("h", impl+" /a"))}, []string{"fairlead|h " + impl + " /a|no longer /aa"}},
		{
			"not canonical", []ReportIngress{ingress("a", paths("h", "Prefix /a/%7Eb"))},
			[]string{"|h Prefix /a/%7Eb|no request can match it"},
		},
	} {
		e := Report(ReportInput{Ingresses: c.list})[0]
		var got []string
		for _, n := range e.Differs {
			if strings.HasPrefix(n.Subject, "h ") {
				got = append(got, string(n.When)+"|"+n.Subject+"|"+n.Message)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
			continue
		}
		for i := range got {
			head, part := c.want[i][:strings.LastIndex(c.want[i], "|")], c.want[i][strings.LastIndex(c.want[i], "|")+1:]
			if !strings.HasPrefix(got[i], head+"|") || !strings.Contains(got[i], part) {
				t.Errorf("%s: got %q, want %q", c.name, got[i], c.want[i])
			}
		}
	}
}

func TestReportPatterns(t *testing.T) {
	list := []ReportIngress{
		ingress("a", paths("h", "ImplementationSpecific /(?!admin).*"), "use-regex=true"),
		ingress("b", paths("h", "Prefix /("), "proxy-body-size=8m"),
	}
	got := Report(ReportInput{Ingresses: list})
	if n := got[0].Unsupported; len(n) != 1 || n[0].When != Always || !strings.Contains(n[0].Message, "look-ahead") {
		t.Errorf("got %+v", n)
	}
	if n := got[1].Unsupported; len(n) != 1 || n[0].When != Adopted {
		t.Errorf("got %+v, want that it is bad as a pattern only", n)
	}
}

// TestReportGolden is the whole report of a small shop, as it is printed.
func TestReportGolden(t *testing.T) {
	list := []ReportIngress{
		ingress("web", paths("shop.example", "Prefix /", "Exact /cart/"),
			"ssl-redirect=true", "proxy-body-size=8m", "affinity=cookie", "http2-push-preload=true", "proxy-buffering=off", "enable-cors=true"),
		ingress("api", paths("api.example", "ImplementationSpecific /v1(/|$)(.*)", "Prefix /health"),
			"use-regex=true", "rewrite-target=/$2", "limit-rps=10", "limit-connections=5", "whitelist-source-range=10.0.0.0/8", "auth-url=https://auth.example"),
		ingress("old", paths("old.example", "ImplementationSpecific /(?!private).*", "Prefix /a"),
			"configuration-snippet=deny all;", "use-regex=yes", "mirror-target=https://copy.example", "auth-type=digest", "auth-secret=users", "nonsense=1"),
		ingress("canary", paths("shop.example", "Prefix /"), "canary=true", "canary-weight=10", "proxy-body-size=1k"),
	}
	entries := Report(ReportInput{Ingresses: list})
	var text, doc bytes.Buffer
	if err := WriteText(&text, entries); err != nil {
		t.Fatal(err)
	}
	if err := WriteJSON(&doc, entries); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"report.txt": text.Bytes(), "report.json": doc.Bytes()} {
		golden.File(t, filepath.Join("testdata", name), string(got))
	}
	var back struct{ Ingresses []Entry }
	if err := json.Unmarshal(doc.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(entries, back.Ingresses); diff != "" {
		t.Errorf("JSON loses something:\n%s", diff)
	}
}

// TestReportIsStable makes sure that the order of Ingresses does not matter.
func TestReportIsStable(t *testing.T) {
	a, b := ingress("a", paths("h", "Prefix /a")), ingress("b", paths("h", "Prefix /b/"), "use-regex=true")
	if diff := cmp.Diff(Report(ReportInput{Ingresses: []ReportIngress{a, b}}), Report(ReportInput{Ingresses: []ReportIngress{b, a}})); diff != "" {
		t.Error(diff)
	}
	if got := Report(ReportInput{}); len(got) != 0 {
		t.Errorf("got %v of nothing", got)
	}
}
