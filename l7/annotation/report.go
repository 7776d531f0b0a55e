package annotation

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/l7/route"
	"github.com/fairlead-project/fairlead/service"
)

// ReportInput is what Report works on.
type ReportInput struct {
	Ingresses []ReportIngress
	Globals   *Globals // nil: DefaultGlobals

	// SecretData and ConfigMapData look things up in any namespace. nil: they are not looked at.
	SecretData    func(service.Name) (map[string][]byte, bool)
	ConfigMapData func(service.Name) (map[string]string, bool)
}

// A ReportIngress is an Ingress that ingress-nginx serves.
type ReportIngress struct {
	Name        service.Name
	Annotations map[string]string
	Rules       []ReportRule
}

// A ReportRule is one path of an Ingress.
type ReportRule struct {
	Host, Path string
	Type       string // Exact, Prefix or ImplementationSpecific
}

// When says for which class a Note holds.
type When string

// The classes: whatever the class, the one of ingress-nginx served by fairlead, and fairlead's own.
const (
	Always  When = ""
	Adopted When = "nginx"
	Moved   When = "fairlead"
)

// A Note is one line about an Ingress.
type Note struct {
	Subject string `json:"subject"` // an annotation, or a host and path
	When    When   `json:"class,omitempty"`
	Message string `json:"message,omitempty"`
}

// An Entry says of one Ingress what becomes of it.
type Entry struct {
	Ingress     string `json:"ingress"` // namespace/name
	Unsupported []Note `json:"unsupported"`
	Differs     []Note `json:"differs"`
	Same        []Note `json:"same"`
}

// General returns what differs from ingress-nginx whatever is written in an Ingress.
func General() []Note {
	return []Note{
		{Subject: "paths", Message: "Paths are made canonical before they are matched, and go to backends so; ingress-nginx matches one form and may forward another."},
		{Subject: "paths", When: Moved, Message: "Several slashes in a row stay several; ingress-nginx takes them for one. A backslash, also as %5C, is refused."},
		{Subject: "patterns", Message: "Patterns are RE2: there is no look-around and no back-reference."},
		{Subject: "bodies", Message: "Bodies of requests are passed on as they come beyond client-body-buffer-size (16k, at most 1m); ingress-nginx reads them to their end first, to disk if need be."},
		{Subject: "use-forwarded-headers", Message: "Nobody is trusted unless proxy-real-ip-cidr says so; ingress-nginx trusts everybody then."},
		{Subject: "header fields", When: Moved, Message: "Backends get X-Real-IP, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Port, X-Forwarded-Proto and X-Request-ID, but no X-Scheme, X-Forwarded-Scheme and X-Original-Forwarded-…"},
		{Subject: "references", Message: "Secrets and ConfigMaps of other namespaces are refused, whatever the flags of ingress-nginx were."},
	}
}

// Report says for every Ingress what stays the same, what will be different and what is not supported when fairlead
// serves it: with the class of ingress-nginx adopted, or moved to a class of fairlead. All Ingresses that share
// hosts have to be there, for what one does to the other. Entries are in order of names.
func Report(in ReportInput) []Entry {
	rep := &reporter{in: in, hosts: map[string]*reportHost{}}
	if rep.in.Globals == nil {
		g := DefaultGlobals()
		rep.in.Globals = &g
	}
	list := slices.SortedStableFunc(slices.Values(in.Ingresses), func(a, b ReportIngress) int { return a.Name.Compare(b.Name) })
	both := make([]twoSettings, len(list))
	for i := range list {
		both[i] = rep.parse(&list[i])
		rep.gather(&list[i], &both[i].nginx)
	}
	out := make([]Entry, len(list))
	for i := range list {
		out[i] = rep.entry(&list[i], &both[i])
	}
	return out
}

// A reporter is one run of Report.
type reporter struct {
	in    ReportInput
	hosts map[string]*reportHost
}

// A reportHost is what ingress-nginx makes of a host.
type reportHost struct {
	regexBy string // "namespace/name: annotation" of who makes all paths patterns; empty: nobody
	by      service.Name
	paths   map[string]bool
}

// twoSettings is what an Ingress comes to in both dialects.
type twoSettings struct {
	nginx, strict           Settings
	nginxFound, strictFound []Finding
}

func (rep *reporter) parse(ing *ReportIngress) (out twoSettings) {
	in := Input{Namespace: ing.Name.Namespace, Name: ing.Name.Name, Annotations: ing.Annotations, Globals: rep.in.Globals}
	if look := rep.in.SecretData; look != nil {
		in.SecretData = func(name string) (map[string][]byte, bool) {
			return look(service.Name{Namespace: ing.Name.Namespace, Name: name})
		}
	}
	if look := rep.in.ConfigMapData; look != nil {
		in.ConfigMapData = func(name string) (map[string]string, bool) {
			return look(service.Name{Namespace: ing.Name.Namespace, Name: name})
		}
	}
	in.Dialect = route.Strict
	out.strict, out.strictFound = Parse(in)
	in.Dialect = route.Nginx
	out.nginx, out.nginxFound = Parse(in)
	return out
}

// gather notes what ing does to its hosts in ingress-nginx.
func (rep *reporter) gather(ing *ReportIngress, s *Settings) {
	for _, r := range ing.Rules {
		h := rep.hosts[r.Host]
		if h == nil {
			h = &reportHost{paths: map[string]bool{}}
			rep.hosts[r.Host] = h
		}
		h.paths[r.Path] = true
		if h.regexBy != "" {
			continue
		}
		if s.Routing.UseRegex {
			h.regexBy, h.by = "use-regex", ing.Name
		} else if s.Rewrite.Target != "" && s.Rewrite.Target != r.Path {
			h.regexBy, h.by = "rewrite-target", ing.Name
		}
	}
}

func (rep *reporter) entry(ing *ReportIngress, both *twoSettings) Entry {
	e := Entry{Ingress: ing.Name.String(), Unsupported: []Note{}, Differs: []Note{}, Same: []Note{}}
	noted := e.findings(both)
	e.settings(both)
	e.name(ing, noted)
	for _, r := range ing.Rules {
		rep.path(&e, ing, &both.strict, r)
	}
	ix := indexed()
	for _, key := range slices.Sorted(maps.Keys(ing.Annotations)) {
		name, _ := strings.CutPrefix(strings.TrimPrefix(key, OwnPrefix), NginxPrefix)
		if name == key || noted[key] || ix.annotations[name] == nil {
			continue
		}
		note := Note{Subject: key}
		if a := ix.annotations[name]; a.Support != Served {
			note.Message = "asks for nothing"
		}
		e.Same = append(e.Same, note)
	}
	e.Unsupported, e.Differs = merged(e.Unsupported), merged(e.Differs)
	return e
}

// name gives notes about annotations the names under which they are written, and notes that they are there.
func (e *Entry) name(ing *ReportIngress, noted map[string]bool) {
	for i, n := range e.Differs {
		for _, prefix := range []string{OwnPrefix, NginxPrefix} {
			if _, ok := ing.Annotations[prefix+n.Subject]; ok {
				e.Differs[i].Subject = prefix + n.Subject
				noted[prefix+n.Subject] = true
			}
		}
	}
}

// findings turns what Parse has said into notes, and returns the annotations they are about.
func (e *Entry) findings(both *twoSettings) map[string]bool {
	noted := map[string]bool{}
	for _, list := range []struct {
		when  When
		found []Finding
	}{{Adopted, both.nginxFound}, {Moved, both.strictFound}} {
		for _, f := range list.found {
			noted[f.Key] = true
			n := Note{Subject: f.Key, When: list.when, Message: f.Message}
			switch {
			case f.Severity == Refused:
				n.Message = strings.TrimSuffix(n.Message, ".") + "; its rules answer 503"
				e.Unsupported = append(e.Unsupported, n)
			case f.Severity == Differs, strings.HasPrefix(f.Message, "no effect"):
				e.Differs = append(e.Differs, n)
			default:
				e.Unsupported = append(e.Unsupported, n)
			}
		}
	}
	return noted
}

// merged makes one note of two that say the same about both classes, and sorts.
func merged(list []Note) []Note {
	slices.SortStableFunc(list, func(a, b Note) int {
		return cmp.Or(strings.Compare(a.Subject, b.Subject), strings.Compare(a.Message, b.Message), strings.Compare(string(a.When), string(b.When)))
	})
	out := list[:0]
	for _, n := range list {
		if last := len(out) - 1; last >= 0 && out[last].Subject == n.Subject && out[last].Message == n.Message {
			if out[last].When != n.When {
				out[last].When = Always
			}
			continue
		}
		out = append(out, n)
	}
	return out
}

func (e *Entry) differs(subject string, when When, format string, args ...any) {
	e.Differs = append(e.Differs, Note{Subject: subject, When: when, Message: fmt.Sprintf(format, args...)})
}
