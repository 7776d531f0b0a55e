package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/service"
)

// A Kind is a kind of objects.
type Kind struct {
	APIVersion string               // required, such as v1
	Name       string               // required, such as Secret
	New        func() metav1.Object // required; returns an empty object, a pointer to a struct
	Global     bool                 // objects have no namespace
}

// Kinds are kinds to be read besides Services, EndpointSlices and Nodes.
type Kinds []Kind

// find returns the Kind with that name, of any version.
func (k Kinds) find(name string) (Kind, bool) {
	i := slices.IndexFunc(k, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return k[i], true
}

// basic are the kinds that are always read.
func basic() Kinds {
	return Kinds{
		{APIVersion: "v1", Name: "Service", New: func() metav1.Object { return &corev1.Service{} }},
		{APIVersion: "v1", Name: "Node", New: func() metav1.Object { return &corev1.Node{} }, Global: true},
		{
			APIVersion: discoveryv1.SchemeGroupVersion.String(), Name: "EndpointSlice",
			New: func() metav1.Object { return &discoveryv1.EndpointSlice{} },
		},
	}
}

// Parse reads the documents of one file. name is used in Objects and Errors
// only.
func Parse(name string, data []byte) (Objects, []*Error) { return Kinds(nil).Parse(name, data) }

// Parse is [Parse] with more kinds.
func (k Kinds) Parse(name string, data []byte) (Objects, []*Error) {
	p := parser{file: name, kinds: append(basic(), k...)}
	for line, doc := range documents(data) {
		p.document(line, doc)
	}
	return p.objects, p.errs
}

// documents yields the documents of a file with the number of lines before each.
// They are told apart here and not by the YAML parser, so that a syntax error
// does not hide the documents after it.
func documents(data []byte) func(yield func(int, []byte) bool) {
	return func(yield func(int, []byte) bool) {
		start, startLine, line := 0, 0, 0
		for at := 0; at < len(data); line++ {
			end := at + bytes.IndexByte(data[at:], '\n') + 1
			if end == at {
				end = len(data)
			}
			if isSeparator(data[at:end]) && at > start {
				if !yield(startLine, data[start:at]) {
					return
				}
				start, startLine = at, line
			}
			at = end
		}
		yield(startLine, data[start:])
	}
}

func isSeparator(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// maxErrors bounds what is said about one file.
const maxErrors = 100

// A parser collects what is in one file.
type parser struct {
	file    string
	kinds   Kinds
	offset  int // lines before the document
	objects Objects
	errs    []*Error
	failed  int // number of errors, said or not
}

func (p *parser) fail(line int, field, format string, args ...any) {
	if p.failed++; p.failed > maxErrors {
		return
	}
	p.errs = append(p.errs, &Error{File: p.file, Line: p.offset + line, Field: field, Msg: fmt.Sprintf(format, args...)})
}

func (p *parser) document(offset int, doc []byte) {
	p.offset = offset
	dec := yaml.NewDecoder(bytes.NewReader(doc))
	for {
		var root yaml.Node
		err := dec.Decode(&root)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			p.syntax(err)
			return
		}
		if len(root.Content) > 0 {
			p.object(root.Content[0], "")
		}
	}
}

// syntax records an error of the YAML parser, which knows the line only as text.
func (p *parser) syntax(err error) {
	line, msg := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`(?s)^line (\d+): (.*)$`).FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = m[2]
	}
	p.fail(line, "", "%s", msg)
}

// object records the object at n, or the items of a List. path is where n is.
func (p *parser) object(n *yaml.Node, path string) {
	n = target(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.fail(n.Line, path, "is not an object")
		return
	}
	kind, version := text(n, "kind"), text(n, "apiVersion")
	item, isList := strings.CutSuffix(kind, "List")
	if isList && item != "" {
		_, isList = p.kinds.find(item)
	}
	k, known := p.kinds.find(kind)
	switch {
	case kind == "":
		p.fail(n.Line, join(path, "kind"), "is missing")
	case version == "":
		p.fail(n.Line, join(path, "apiVersion"), "is missing")
	case isList:
		p.list(n, path)
	case known && version == k.APIVersion:
		p.typed(n, path, k)
	case known:
		p.fail(lineOf(n, "apiVersion"), join(path, "apiVersion"), "%.80q of %s is not supported", version, kind)
	default:
		p.objects = append(p.objects, Object{File: p.file, Line: p.offset + n.Line, ID: service.Object{Kind: kind}})
	}
}

func (p *parser) list(n *yaml.Node, path string) {
	items := field(n, "items")
	if items == nil || isNull(target(items)) {
		return
	}
	items = target(items)
	if items.Kind != yaml.SequenceNode {
		p.fail(items.Line, join(path, "items"), "is not a list")
		return
	}
	for i, item := range items.Content {
		p.object(item, fmt.Sprintf("%s[%d]", join(path, "items"), i))
	}
}

// typed decodes n into o and records it, unless something is wrong with it.
func (p *parser) typed(n *yaml.Node, path string, k Kind) {
	before, o := p.failed, k.New()
	d := decoder{parser: p}
	d.into(n, path, o)
	if o.GetName() == "" && p.failed == before {
		line := n.Line
		if m := field(n, "metadata"); m != nil {
			line = m.Line
		}
		p.fail(line, join(path, "metadata.name"), "is missing")
	}
	if p.failed > before {
		return
	}
	switch {
	case k.Global:
		o.SetNamespace("")
	case o.GetNamespace() == "":
		o.SetNamespace(metav1.NamespaceDefault)
	}
	p.objects = append(p.objects, Object{
		File:  p.file,
		Line:  p.offset + n.Line,
		ID:    service.Object{Kind: k.Name, Name: service.Name{Namespace: o.GetNamespace(), Name: o.GetName()}},
		Value: o,
	})
}

// target follows aliases.
func target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// field returns the value of a key of a mapping, or nil.
func field(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// text returns the scalar at a key of a mapping, or "".
func text(n *yaml.Node, key string) string {
	v := field(n, key)
	if v == nil || isNull(target(v)) {
		return ""
	}
	return target(v).Value
}

// lineOf returns the line of a key of a mapping.
func lineOf(n *yaml.Node, key string) int {
	if v := field(n, key); v != nil {
		return v.Line
	}
	return n.Line
}

// join returns the path of a field.
func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}
