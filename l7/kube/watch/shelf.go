package watch

import (
	"context"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
)

const (
	// fewSingles is how many objects of a namespace are watched each by itself, at
	// least. Beyond that one watch of the namespace takes their place; new ones
	// then again begin by themselves, up to a quarter of those it covers.
	fewSingles = 10

	// patience is how long an Ingress waits for what it names after asking for that
	// has failed for the first time, and longest how long it waits in any case: to be
	// one of thousands that are asked for in turn is no failure.
	patience = 10 * time.Second
	longest  = 2 * time.Minute

	// amnesty is when to try again to watch a namespace as a whole.
	amnesty = 10 * time.Minute
)

// An openFunc returns the feed of some objects of a namespace: of the one that is
// named, or of all of them, of which names are wanted.
type openFunc func(namespace string, names map[string]bool, group bool) *feed

// A shelf follows the objects of one kind that are named by others. All methods are
// for the goroutine of the desk.
type shelf struct {
	*desk
	kind     string
	open     openFunc
	rooms    map[string]*room // by namespace
	restless map[string]bool  // rooms with something to settle
}

// A room is how the objects of one namespace are followed.
type room struct {
	namespace string
	items     map[string]*item
	fresh     map[string]bool // items not followed yet
	singles   map[string]*sheet
	group     *sheet    // in force
	next      *sheet    // will take the place of group when it has its list
	refused   time.Time // when we last were told that we may not list the namespace
}

// An item is one object that is wanted.
type item struct {
	refs     int
	answered bool        // it was asked for, or has had its time
	change   kube.Change // what was last handed over; zero if nothing was
}

func (it *item) present() bool { return it.change.Object != (service.Object{}) }

// A sheet is one watch.
type sheet struct {
	room  *room
	names map[string]bool // not changed any more
	group bool
	stop  context.CancelFunc
	heard bool // it has had a list
	over  bool
	said  bool // that it is forbidden
}

func newShelf(d *desk, kind string, open openFunc) *shelf {
	return &shelf{desk: d, kind: kind, open: open, rooms: make(map[string]*room), restless: make(map[string]bool)}
}

func (s *shelf) item(n service.Name) *item {
	if r := s.rooms[n.Namespace]; r != nil {
		return r.items[n.Name]
	}
	return nil
}

func (s *shelf) answered(n service.Name) bool {
	it := s.item(n)
	return it != nil && it.answered
}

// add counts one more that wants n.
func (s *shelf) add(n service.Name) {
	if it := s.item(n); it != nil {
		it.refs++
		return
	}
	r := s.rooms[n.Namespace]
	if r == nil {
		r = &room{
			namespace: n.Namespace, items: make(map[string]*item),
			fresh: make(map[string]bool), singles: make(map[string]*sheet),
		}
		s.rooms[n.Namespace] = r
	}
	r.items[n.Name] = &item{refs: 1}
	r.fresh[n.Name] = true
	s.restless[n.Namespace] = true
}

// drop counts one less, and forgets n after the last.
func (s *shelf) drop(n service.Name) {
	it := s.item(n)
	if it == nil {
		return
	}
	if it.refs--; it.refs > 0 {
		return
	}
	r := s.rooms[n.Namespace]
	s.withdraw(r, n.Name)
	delete(r.items, n.Name)
	delete(r.fresh, n.Name)
	s.end(r.singles[n.Name])
	delete(r.singles, n.Name)
	if len(r.items) == 0 {
		s.end(r.group)
		s.end(r.next)
		delete(s.rooms, n.Namespace)
	}
}

func (s *shelf) end(sh *sheet) {
	if sh != nil && !sh.over {
		sh.over = true
		sh.stop()
	}
}

// settle starts to follow what is not followed yet.
func (s *shelf) settle(ctx context.Context) {
	for namespace := range s.restless {
		delete(s.restless, namespace)
		if r := s.rooms[namespace]; r != nil && len(r.fresh) > 0 && r.next == nil {
			s.fill(ctx, r)
		}
	}
}

// fill follows the fresh names of a room, one by one or by a new group of all.
func (s *shelf) fill(ctx context.Context, r *room) {
	limit := fewSingles
	if r.group != nil {
		limit = max(limit, len(r.group.names)/4)
	}
	if len(r.singles)+len(r.fresh) > limit && time.Since(r.refused) > amnesty {
		names := make(map[string]bool, len(r.items))
		for name := range r.items {
			names[name] = true
		}
		r.next = s.follow(ctx, r, names, true)
	} else {
		for name := range r.fresh {
			s.single(ctx, r, name)
		}
	}
	clear(r.fresh)
}

func (s *shelf) single(ctx context.Context, r *room, name string) {
	r.singles[name] = s.follow(ctx, r, map[string]bool{name: true}, false)
}

// follow starts a watch. Whatever becomes of it, nobody waits for it for long.
func (s *shelf) follow(ctx context.Context, r *room, names map[string]bool, group bool) *sheet {
	own, stop := context.WithCancel(ctx)
	sh := &sheet{room: r, names: names, group: group, stop: stop}
	f := s.open(r.namespace, names, group)
	f.send = func(n news) error { return s.do(own, func() { s.heard(ctx, sh, n) }) }
	giveUp := func(after time.Duration) {
		timer := time.AfterFunc(after, func() {
			_ = s.do(own, func() { s.answer(sh) }) // fails when all is over
		})
		context.AfterFunc(own, func() { timer.Stop() })
	}
	var failed sync.Once
	f.kind.Failed = func(err error) {
		failed.Do(func() { giveUp(patience) })
		if apierrors.IsForbidden(err) {
			_ = s.do(own, func() { s.forbidden(sh) }) // as above
		}
	}
	s.tasks.Go(func() { f.run(own) })
	giveUp(longest)
	return sh
}

// forbidden gives up watching a namespace as a whole, where that is what we may not;
// nobody waits for a single object that we may not read. A watch that has had its list
// goes on trying: an API server that has just started forbids everything for a moment.
func (s *shelf) forbidden(sh *sheet) {
	if sh.over || sh.heard {
		return
	}
	r := sh.room
	if !sh.group {
		for name := range sh.names {
			if !sh.said {
				sh.said = true
				s.Log.Warn("an Ingress names an object that we may not read; it counts as missing",
					"kind", s.kind, "namespace", r.namespace, "name", name)
			}
		}
		s.answer(sh)
		return
	}
	s.end(sh)
	r.next, r.refused = nil, time.Now()
	for name := range r.items {
		if r.singles[name] == nil && (r.group == nil || !r.group.names[name]) {
			r.fresh[name] = true
		}
	}
	s.restless[r.namespace] = true
}

// answer lets go of everybody who waits for what sh follows.
func (s *shelf) answer(sh *sheet) {
	if sh.over {
		return
	}
	for name := range sh.names {
		if it := sh.room.items[name]; it != nil && !it.answered {
			it.answered = true
			s.arrived(ref{s, service.Name{Namespace: sh.room.namespace, Name: name}})
		}
	}
}

// heard handles what a watch has learnt.
func (s *shelf) heard(ctx context.Context, sh *sheet, n news) {
	if sh.over {
		return
	}
	seen := make(map[string]bool, len(n.set))
	for _, c := range n.set {
		if it := sh.room.items[c.Name]; it != nil && sh.names[c.Name] {
			seen[c.Name] = true
			s.set(it, c)
		}
	}
	for _, name := range n.gone {
		if sh.names[name.Name] {
			s.withdraw(sh.room, name.Name)
		}
	}
	if n.list {
		sh.heard = true
		s.listed(ctx, sh, seen)
		s.answer(sh)
	}
}

// listed takes away what a list does not have.
func (s *shelf) listed(ctx context.Context, sh *sheet, seen map[string]bool) {
	if sh.room.next == sh {
		s.takeOver(ctx, sh, seen)
		return
	}
	for name := range sh.names {
		if !seen[name] {
			s.withdraw(sh.room, name)
		}
	}
}

// takeOver puts the group sh in the place of the one before it and of the watches of
// single objects. Its list may be older than what those have seen: an object that they
// have and it has not is watched by itself from now on, which will tell.
func (s *shelf) takeOver(ctx context.Context, sh *sheet, seen map[string]bool) {
	r := sh.room
	s.end(r.group)
	r.group, r.next = sh, nil
	s.restless[r.namespace] = true
	for name := range sh.names {
		it, alone := r.items[name], r.singles[name]
		switch doubtful := it != nil && it.present() && !seen[name]; {
		case doubtful && alone == nil:
			s.single(ctx, r, name)
		case !doubtful && alone != nil:
			s.end(alone)
			delete(r.singles, name)
		}
	}
}

// set hands over a new version of an object.
func (s *shelf) set(it *item, c *converted) {
	s.complain(c.change.Object, c.problems)
	if reflect.DeepEqual(it.change, c.change) {
		return
	}
	s.hand(it, c.change)
}

// withdraw says that an object is gone.
func (s *shelf) withdraw(r *room, name string) {
	it := r.items[name]
	if it == nil {
		return
	}
	object := service.Object{Kind: s.kind, Name: service.Name{Namespace: r.namespace, Name: name}}
	s.complain(object, nil)
	if it.present() {
		s.hand(it, kube.Change{Object: object})
		it.change = kube.Change{}
	}
}

// hand hands c over.
func (s *shelf) hand(it *item, c kube.Change) {
	it.change = c
	s.out = append(s.out, c)
	if s == s.configMaps && c.Object.Name == s.Globals {
		s.setGlobals(c.ConfigMap)
	}
}
