package annotation

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// WriteMarkdown writes the catalogue as docs/annotations.md.
func WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(documentHead)
	writeTables(&b, func(a *Annotation) bool { return a.Scope != Process && a.Support == Served })
	b.WriteString(documentNotServed)
	writeReasons(&b)
	b.WriteString(documentKeys)
	writeTables(&b, func(a *Annotation) bool { return a.Scope == Process })
	b.WriteString(documentTail)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the catalogue: %w", err)
	}
	return nil
}

const documentHead = `# Annotations

<!-- Made from the catalogue in l7/annotation; a test keeps it equal. -->

Every annotation is understood as ` + "`fairlead.io/NAME`" + ` and as ` + "`nginx.ingress.kubernetes.io/NAME`" + `; the former wins. Those marked
with an asterisk are fairlead's own and have the first form only.

* **Default** is what holds without the annotation; where classes adopted from ingress-nginx (controller
  ` + "`k8s.io/ingress-nginx`" + `) have another default, it stands after a slash. **Key** is the key of the
  ConfigMap given to ` + "`--configmap`" + ` that replaces the default; "same" means the name of the annotation.
* **closes**: a bad value closes the rules of the Ingress. They answer 503 until it is mended, because what is
  meant to protect them was not understood. The same goes for a name that is only a letter or two away from
  one of these. Any other bad value counts as not written. An Event says so either way.
* No value may hold a control character or be longer than 8 KiB. Patterns are RE2, at most 1024 bytes long: look-around and
  back-references do not exist.
* Secrets and ConfigMaps are those of the Ingress's namespace: ` + "`name`, or `namespace/name`" + ` with that very namespace.
* Times are in seconds unless they have a unit: ` + "`500ms`, `60`, `1h30m`, `7d`" + `. Sizes are in bytes or end in ` + "`k`, `m` or `g`" + `.
* Variables are those of nginx: ` + "`$host`, `$http_host`, `$request_uri`, `$uri`, `$args`, `$is_args`, `$scheme`, `$remote_addr`," + `
  ` + "`$remote_user`, `$request_method`, `$request_id`, `$server_name`, `$server_port`, `$escaped_request_uri`, `$namespace`," + `
  ` + "`$ingress_name`, `$service_name`, `$service_port`, `$http_NAME`, `$cookie_NAME`, `$arg_NAME`" + `.

## What is served

`

const documentNotServed = `
## What is not

**not yet** and **no effect** are said in an Event. **refused** too; where it says *closes*, the rules are closed, because they
might be open to everybody without it. The key ` + "`refused-annotations: ignore`" + ` of the ConfigMap serves the rules of those that are refused all the same.

`

const documentKeys = `
## Keys of the ConfigMap

Besides the defaults of annotations:

`

const documentTail = `
Keys of ingress-nginx that are not here have no meaning in fairlead; an Event at the ConfigMap says so.
`

// writeTables writes one table for each group, in the order of the catalogue.
func writeTables(b *strings.Builder, wanted func(*Annotation) bool) {
	var groups []string
	byGroup := map[string][]Annotation{}
	for _, a := range Catalogue() {
		if !wanted(&a) {
			continue
		}
		if !slices.Contains(groups, a.Group) {
			groups = append(groups, a.Group)
		}
		byGroup[a.Group] = append(byGroup[a.Group], a)
	}
	for i, g := range groups {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(b, "### %s\n\n| Name | Values | Default | Key | What it does |\n|---|---|---|---|---|\n", g)
		for _, a := range byGroup[g] {
			fmt.Fprintf(b, "| %s | %s%s | %s | %s | %s |\n", a.title(), cell(a.Values), a.remarks(), a.defaults(), a.key(), cell(a.Text))
		}
	}
}

func (a *Annotation) title() string {
	s := "`" + a.Name + "`"
	if a.Own && a.Scope != Process {
		s += "\\*"
	}
	for _, alias := range a.Aliases {
		s += ", `" + alias + "`"
	}
	return s
}

func (a *Annotation) remarks() string {
	var out []string
	if a.Closed {
		out = append(out, "**closes**")
	}
	if a.Scope == Host {
		out = append(out, "for the whole host")
	}
	if out == nil {
		return ""
	}
	return "; " + strings.Join(out, ", ")
}

// defaults returns the defaults of both dialects.
func (a *Annotation) defaults() string {
	s := ""
	switch {
	case len(a.Default) > 60:
		s = "the usual ones"
	case a.Default != "":
		s = "`" + a.Default + "`"
	}
	if a.NginxDefault != "" && a.NginxDefault != a.Default {
		s += " / `" + a.NginxDefault + "`"
	}
	return cell(s)
}

// key returns the key of the ConfigMap.
func (a *Annotation) key() string {
	switch a.Global {
	case "":
		return ""
	case a.Name:
		return "same"
	default:
		return "`" + a.Global + "`"
	}
}

// cell escapes what would end a cell of a table.
func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

func writeReasons(b *strings.Builder) {
	b.WriteString("| Name | | Why |\n|---|---|---|\n")
	for _, s := range []Support{Never, Later, Dead} {
		for _, a := range Catalogue() {
			if a.Support != s {
				continue
			}
			what := s.String()
			if a.Closed {
				what += ", closes"
			}
			if len(a.harmless) > 0 {
				what += fmt.Sprintf("; not for `%s`", strings.Join(a.harmless, "`, `"))
			}
			fmt.Fprintf(b, "| %s | %s | %s |\n", a.title(), what, cell(a.Text))
		}
	}
}
