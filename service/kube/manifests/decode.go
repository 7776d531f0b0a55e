package manifests

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// How much one object may expand to through aliases, and how deep. No object of
// ours is deeper than a dozen levels.
const (
	maxNodes = 1 << 18
	maxDepth = 100
)

// A decoder fills an API object from a YAML tree. It compares the tree with the
// type while the lines are still known, and leaves the decoding to the object's
// own JSON methods.
type decoder struct {
	*parser
	nodes, depth int
}

// into decodes n into o, a pointer to a struct. Errors go to the parser; o is
// then not to be used.
func (d *decoder) into(n *yaml.Node, path string, o any) {
	before := d.failed
	v := d.value(n, reflect.TypeOf(o).Elem(), path)
	if d.failed > before {
		return
	}
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, o)
	}
	if err != nil { // the comparison has missed something
		d.fail(n.Line, path, "%v", err)
	}
}

// value returns what encoding/json wants to see for n, and records where n does
// not fit t.
func (d *decoder) value(n *yaml.Node, t reflect.Type, path string) any {
	d.nodes++
	d.depth++
	defer func() { d.depth-- }()
	if d.nodes > maxNodes || d.depth > maxDepth {
		d.fail(n.Line, "", "the object is too large or too deep")
		return nil
	}
	line := n.Line
	n = target(n)
	if isNull(n) {
		return nil
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return d.special(n, line, t, path)
	}
	switch t.Kind() {
	case reflect.Struct:
		return d.structure(n, t, path)
	case reflect.Map:
		return d.mapping(n, t, path)
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 {
			return d.list(n, t, path)
		}
	}
	return d.scalar(n, line, t, path)
}

// special checks a value whose type reads JSON in its own way, such as a time.
func (d *decoder) special(n *yaml.Node, line int, t reflect.Type, path string) any {
	v := d.free(n, path)
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, reflect.New(t).Interface())
	}
	if err != nil {
		d.fail(line, path, "%v", err)
	}
	return v
}

// free returns the value of n whatever its type.
func (d *decoder) free(n *yaml.Node, path string) any {
	switch n = target(n); {
	case isNull(n):
		return nil
	case n.Kind == yaml.MappingNode:
		return d.mapping(n, reflect.TypeFor[map[string]any](), path)
	case n.Kind == yaml.SequenceNode:
		return d.list(n, reflect.TypeFor[[]any](), path)
	}
	return d.scalar(n, n.Line, reflect.TypeFor[any](), path)
}

func (d *decoder) structure(n *yaml.Node, t reflect.Type, path string) any {
	known := make(map[string]reflect.Type)
	jsonFields(t, known)
	return d.entries(n, path, func(key string) (reflect.Type, bool) {
		ft, ok := known[key]
		return ft, ok
	})
}

func (d *decoder) mapping(n *yaml.Node, t reflect.Type, path string) any {
	return d.entries(n, path, func(string) (reflect.Type, bool) { return t.Elem(), true })
}

// entries returns the entries of a mapping whose keys have the types that typeOf
// knows.
func (d *decoder) entries(n *yaml.Node, path string, typeOf func(string) (reflect.Type, bool)) any {
	if n.Kind != yaml.MappingNode {
		d.fail(n.Line, path, "must be an object, not %s", describe(n))
		return nil
	}
	out := make(map[string]any, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := target(n.Content[i]), n.Content[i+1]
		at := join(path, k.Value)
		t, ok := typeOf(k.Value)
		switch _, double := out[k.Value]; {
		case k.Kind != yaml.ScalarNode:
			d.fail(k.Line, path, "a key must be a string, not %s", describe(k))
		case k.ShortTag() == "!!merge":
			d.fail(k.Line, at, "merge keys are not supported")
		case double:
			d.fail(k.Line, at, "is there twice")
		case !ok:
			d.fail(k.Line, at, "unknown field")
		default:
			out[k.Value] = d.value(v, t, at)
		}
	}
	return out
}

func (d *decoder) list(n *yaml.Node, t reflect.Type, path string) any {
	if n.Kind != yaml.SequenceNode {
		d.fail(n.Line, path, "must be a list, not %s", describe(n))
		return nil
	}
	out := make([]any, 0, len(n.Content))
	for i, item := range n.Content {
		out = append(out, d.value(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i)))
	}
	return out
}

// scalar returns a scalar of type t. A string must be one in YAML too: an
// address like 0x1 or a label like 1.10 does not survive being a number.
func (d *decoder) scalar(n *yaml.Node, line int, t reflect.Type, path string) any {
	if t.Kind() == reflect.Interface && n.Kind != yaml.ScalarNode {
		return d.free(n, path)
	}
	tag := ""
	if n.Kind == yaml.ScalarNode {
		tag = n.ShortTag()
	}
	zero := reflect.New(t).Elem()
	switch {
	case zero.CanInt() || zero.CanUint():
		var i int64
		if tag == "!!int" && n.Decode(&i) == nil && fits(zero, i) {
			return i
		}
		d.fail(line, path, "must be a number of type %s, not %s", t.Kind(), describe(n))
	case zero.CanFloat():
		if f, ok := float(n, tag); ok {
			return f
		}
		d.fail(line, path, "must be a number, not %s", describe(n))
	case t.Kind() == reflect.Bool:
		var b bool
		if tag == "!!bool" && n.Decode(&b) == nil {
			return b
		}
		d.fail(line, path, "must be true or false, not %s", describe(n))
	case t.Kind() == reflect.String, t.Kind() == reflect.Slice:
		if tag == "!!str" || tag == "!!timestamp" {
			return n.Value
		}
		d.fail(line, path, "must be a string, not %s; put it in quotes", describe(n))
	default:
		return plain(n, tag)
	}
	return nil
}

// plain returns a scalar as what it looks like.
func plain(n *yaml.Node, tag string) any {
	switch tag {
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i
		}
	case "!!float":
		if f, ok := float(n, tag); ok {
			return f
		}
	case "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b
		}
	}
	return n.Value
}

func float(n *yaml.Node, tag string) (float64, bool) {
	var f float64
	ok := (tag == "!!int" || tag == "!!float") && n.Decode(&f) == nil
	return f, ok && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// fits reports whether i can be stored in the type of v.
func fits(v reflect.Value, i int64) bool {
	if v.CanInt() {
		return !v.OverflowInt(i)
	}
	return i >= 0 && !v.OverflowUint(uint64(i))
}

// describe says what n is, for messages.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!str":
		return fmt.Sprintf("the string %.80q", n.Value)
	case "!!int", "!!float":
		return fmt.Sprintf("the number %.80s", n.Value)
	}
	return fmt.Sprintf("%.80s", n.Value)
}

// jsonFields adds the fields of struct t, by their names in JSON, to known.
func jsonFields(t reflect.Type, known map[string]reflect.Type) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && (f.Anonymous || options == "inline"):
			jsonFields(f.Type, known)
		case name == "":
			known[f.Name] = f.Type
		default:
			known[name] = f.Type
		}
	}
}
