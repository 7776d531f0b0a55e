package annotation

import (
	"slices"
	"sync"
)

// Support says how far an annotation is honoured.
type Support uint8

// The kinds of support.
const (
	Served Support = iota // all of it
	Later                 // recognised, and not honoured yet
	Dead                  // without meaning here: it asks for what is always so, or for what a Go proxy has not got
	Never                 // refused, for the reason that is given
)

// String returns the support in one word or two.
func (s Support) String() string {
	return [...]string{"yes", "not yet", "no effect", "refused"}[s]
}

// A Scope is what one value of an annotation holds for.
type Scope uint8

// The scopes.
const (
	Rules   Scope = iota // each rule of the Ingress by itself
	Host                 // the whole host, also rules of other Ingresses
	Backend              // the backends of the Ingress
	Process              // everything: it is a key of the ConfigMap and not an annotation
)

// String returns the scope in one word.
func (s Scope) String() string { return [...]string{"rule", "host", "backend", "process"}[s] }

// An Annotation is one entry of the catalogue.
type Annotation struct {
	Name    string   // under OwnPrefix, and under NginxPrefix unless Own
	Aliases []string // other names for it, under the same prefixes
	Group   string   // heading in the documentation
	Support Support
	Scope   Scope
	Own     bool // ingress-nginx has no such annotation

	Values       string // what may be written, in words
	Default      string // as one would write it; empty if nothing happens unless asked for
	NginxDefault string // the same in the dialect of nginx, where it differs
	Global       string // the key of the ConfigMap with the default; empty if there is none

	// Closed means that a bad value closes the rule. With Never and Later, the mere presence does.
	Closed bool

	Text string // what it does, or why it is not honoured

	lines    bool     // newlines are part of the grammar
	harmless []string // values that ask for nothing, of annotations that are not served
}

// Catalogue returns all annotations and keys of the ConfigMap, by group.
func Catalogue() []Annotation {
	return slices.Concat(routingEntries[:], backendEntries[:], guardEntries[:], answerEntries[:], otherEntries[:], processEntries[:])
}

// An index finds entries.
type index struct {
	annotations map[string]*Annotation // by name and alias
	keys        map[string]*Annotation // by key of the ConfigMap
}

// indexed is the index of the catalogue. It is made once, because every Ingress is parsed by it, and
// never changed.
var indexed = sync.OnceValue(func() index {
	ix := index{annotations: map[string]*Annotation{}, keys: map[string]*Annotation{}}
	for _, a := range Catalogue() {
		if a.Global != "" {
			ix.keys[a.Global] = &a
		}
		if a.Scope == Process {
			continue
		}
		for _, name := range append([]string{a.Name}, a.Aliases...) {
			ix.annotations[name] = &a
		}
	}
	return ix
})

// served returns the entry that code asks for by name: an annotation that is served, or
// a key of the ConfigMap. Asking for any other is a fault of this package.
func (ix index) served(name string) *Annotation {
	if a := ix.annotations[name]; a != nil && a.Support == Served {
		return a
	}
	if a := ix.keys[name]; a != nil && a.Scope == Process {
		return a
	}
	panic("annotation: " + name + " is not in the catalogue")
}

// defaultIn returns the default in the dialect, or nothing.
func (a *Annotation) defaultIn(nginx bool) string {
	if nginx && a.NginxDefault != "" {
		return a.NginxDefault
	}
	return a.Default
}
