package watch

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
)

// How many things may wait for the desk, and how many of them it does before it hands
// over what has come of them.
const (
	deskQueue = 256
	deskBatch = 1024
)

// A desk is the goroutine that owns what a Source knows.
type desk struct {
	*Source
	in chan func()

	ingresses  map[service.Name]*entry
	classes    map[string]*ingress.Class
	secrets    *shelf
	configMaps *shelf
	globals    []ref // what the global ConfigMap names
	parcels    map[service.Object]*parcel
	waiting    map[ref][]*parcel
	unlisted   map[string]bool // kinds whose first list has not come
	early      []news          // of Ingresses, before the classes
	synced     bool

	tasks sync.WaitGroup

	out         []kube.Change
	complaining map[service.Object]bool
}

// A ref is a Secret or ConfigMap that is wanted.
type ref struct {
	shelf *shelf
	name  service.Name
}

// An entry is what is known of one Ingress.
type entry struct {
	value   *ingress.Ingress // the newest
	inForce []ref            // what the version handed over names
	pending []ref            // what the one held back names
	held    bool
}

// A parcel is a change that waits until what it names has been asked for.
type parcel struct {
	change kube.Change
	waits  map[ref]bool
	void   bool // a newer one has taken its place
}

func newDesk(s *Source) *desk {
	return &desk{
		Source:      s,
		in:          make(chan func(), deskQueue),
		ingresses:   make(map[service.Name]*entry),
		classes:     make(map[string]*ingress.Class),
		parcels:     make(map[service.Object]*parcel),
		waiting:     make(map[ref][]*parcel),
		unlisted:    make(map[string]bool),
		complaining: make(map[service.Object]bool),
	}
}

// do has the desk do something. It waits while much is waiting.
func (d *desk) do(ctx context.Context, what func()) error {
	select {
	case d.in <- what:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run works until ctx is done or the Sink is gone.
func (d *desk) run(ctx context.Context) error {
	for {
		d.secrets.settle(ctx)
		d.configMaps.settle(ctx)
		if err := d.flush(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case what := <-d.in:
			what()
		}
		for more := true; more && len(d.out) < deskBatch; {
			select {
			case what := <-d.in:
				what()
			default:
				more = false
			}
		}
	}
}

// flush hands over what has changed, and says once that nothing is missing.
func (d *desk) flush(ctx context.Context) error {
	if len(d.out) > 0 {
		if err := d.Sink.Update(ctx, d.out); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("hand over changes: %w", err)
		}
		d.out = nil // the Sink may have kept it
	}
	if !d.synced && len(d.unlisted) == 0 && len(d.parcels) == 0 && d.answered(d.fixed()) {
		d.synced = true
		d.Sink.Synced()
	}
	return nil
}

// fixed returns what is wanted whatever Ingresses say.
func (d *desk) fixed() []ref {
	out := d.refs(d.Always)
	if d.Globals != (service.Name{}) {
		out = append(out, ref{d.configMaps, d.Globals})
	}
	return append(out, d.globals...)
}

// setGlobals takes note of the global ConfigMap; nil if it is gone. What it names is
// wanted too.
func (d *desk) setGlobals(v *ingress.ConfigMap) {
	old := d.globals
	d.globals = d.refs(kube.ReferGlobals(v))
	d.add(d.globals)
	d.drop(old)
}

func (d *desk) answered(refs []ref) bool {
	return !slices.ContainsFunc(refs, func(r ref) bool { return !r.shelf.answered(r.name) })
}

// refs returns what is named by r.
func (d *desk) refs(r kube.References) []ref {
	out := make([]ref, 0, len(r.Secrets)+len(r.ConfigMaps))
	for _, n := range r.Secrets {
		out = append(out, ref{d.secrets, n})
	}
	for _, n := range r.ConfigMaps {
		out = append(out, ref{d.configMaps, n})
	}
	return out
}

// wanted returns what v names, if it is served at all.
func (d *desk) wanted(v *ingress.Ingress) []ref {
	ours := d.Serves(v, d.classes)
	if d.Statuses != nil {
		d.Statuses.claim(v.Name, ours)
	}
	if !ours {
		return nil
	}
	return d.refs(kube.Refer(v))
}

func (d *desk) add(refs []ref) {
	for _, r := range refs {
		r.shelf.add(r.name)
	}
}

func (d *desk) drop(refs []ref) {
	for _, r := range refs {
		r.shelf.drop(r.name)
	}
}

// setIngress takes note of an Ingress.
func (d *desk) setIngress(v *ingress.Ingress) {
	e := d.ingresses[v.Name]
	if e == nil {
		e = &entry{}
		d.ingresses[v.Name] = e
	} else if reflect.DeepEqual(e.value, v) {
		return
	}
	e.value = v
	refs := d.wanted(v)
	d.add(refs)
	d.drop(e.pending)
	e.pending, e.held = refs, true
	d.post(kube.Change{Object: ingressObject(v.Name), Ingress: v}, refs)
}

// removeIngress takes note that an Ingress is gone.
func (d *desk) removeIngress(n service.Name) {
	e := d.ingresses[n]
	if e == nil {
		return
	}
	delete(d.ingresses, n)
	d.post(kube.Change{Object: ingressObject(n)}, nil)
	d.drop(e.pending)
	d.drop(e.inForce)
}

// setClass takes note of a class; a nil one is gone. What Ingresses name counts from
// the moment they are served.
func (d *desk) setClass(name string, v *ingress.Class) {
	if reflect.DeepEqual(d.classes[name], v) {
		return
	}
	if d.classes[name] = v; v == nil {
		delete(d.classes, name)
	}
	var added, dropped []ref
	for _, e := range d.ingresses {
		refs := d.wanted(e.value)
		current := &e.inForce
		if e.held {
			current = &e.pending
		}
		if !slices.Equal(refs, *current) {
			added, dropped = append(added, refs...), append(dropped, *current...)
			*current = refs
		}
	}
	d.add(added)
	d.post(kube.Change{Object: classObject(name), Class: v}, added)
	d.drop(dropped)
}

// post hands c over, now or as soon as all refs have been answered.
func (d *desk) post(c kube.Change, refs []ref) {
	if old := d.parcels[c.Object]; old != nil {
		old.void = true
		delete(d.parcels, c.Object)
	}
	p := &parcel{change: c, waits: make(map[ref]bool)}
	for _, r := range refs {
		if !r.shelf.answered(r.name) && !p.waits[r] {
			p.waits[r] = true
			d.waiting[r] = append(d.waiting[r], p)
		}
	}
	if len(p.waits) == 0 {
		d.release(c)
		return
	}
	d.parcels[c.Object] = p
}

// release hands c over, and lets go of what only the version before it named.
func (d *desk) release(c kube.Change) {
	d.out = append(d.out, c)
	if c.Ingress == nil {
		return
	}
	if e := d.ingresses[c.Object.Name]; e != nil && e.held {
		old := e.inForce
		e.inForce, e.pending, e.held = e.pending, nil, false
		d.drop(old)
	}
}

// arrived lets go of what has waited for r.
func (d *desk) arrived(r ref) {
	list := d.waiting[r]
	delete(d.waiting, r)
	for _, p := range list {
		delete(p.waits, r)
		if !p.void && len(p.waits) == 0 {
			delete(d.parcels, p.change.Object)
			d.release(p.change)
		}
	}
}

// complain passes on what is wrong with an object, if that is news.
func (d *desk) complain(object service.Object, problems []service.Problem) {
	if d.Report == nil || len(problems) == 0 && !d.complaining[object] {
		return
	}
	if delete(d.complaining, object); len(problems) > 0 {
		d.complaining[object] = true
	}
	d.Report(object, problems)
}

func ingressObject(n service.Name) service.Object { return service.Object{Kind: "Ingress", Name: n} }

func classObject(name string) service.Object {
	return service.Object{Kind: "IngressClass", Name: service.Name{Name: name}}
}
