package manifests

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

const (
	// debounce is how long a Source waits after a change for more of them, and
	// how long a file must have been left alone to be read.
	debounce = 100 * time.Millisecond

	// defaultPoll finds what notifications miss, such as changes in a network
	// file system.
	defaultPoll = 10 * time.Second
)

// A Source feeds a Sink from a folder.
type Source struct {
	Dir  string       // required
	Sink kube.Sink    // required
	Log  *slog.Logger // required

	// Poll is how often the folder is read without having been told of a
	// change; zero means every ten seconds.
	Poll time.Duration

	// NodeName is the name of our Node; empty means to look for none. Node, if
	// not nil, is called with it, before Synced and after every change that
	// counts; nil when it is not there. A folder need not have one.
	NodeName string
	Node     func(ctx context.Context, n *kube.NodeInfo)

	// Report, if not nil, hears the Problems of objects. What is wrong in files
	// is only logged: there is no object to attach it to.
	Report kube.ReportFunc

	// All says that Services are wanted that are none of L4's business too: see
	// [kube.Converter].
	All bool

	// More are further kinds to be read. Others, required if there are any, is
	// called with all objects of those kinds, each time that anything in the folder
	// has changed, and first before Synced. An object that has not changed has the
	// same Value. An error ends Run.
	More   Kinds
	Others func(ctx context.Context, objects Objects) error
}

// Run feeds the Sink until ctx is done, and then returns nil. It fails if the
// folder cannot be read in the beginning, but not later. An error in a file is
// logged when it appears.
func (s *Source) Run(ctx context.Context) error {
	files := newFolder(s.Dir, s.More)
	if err := files.readable(); err != nil {
		return fmt.Errorf("read the folder of manifests: %w", err)
	}
	out := newOutput(s)
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		s.Log.Warn("cannot watch the folder of manifests; it is read from time to time", "dir", s.Dir, "err", err)
	} else {
		defer notify.Close()
	}
	watch(notify, s.Dir)
	files.read(0)
	if err := out.publish(ctx, files); err != nil {
		return stopped(ctx, err)
	}
	s.Sink.Synced()
	return s.follow(ctx, notify, files, out)
}

// follow publishes the folder again after every change.
func (s *Source) follow(ctx context.Context, notify *fsnotify.Watcher, files *folder, out *output) error {
	var events chan fsnotify.Event
	var errs chan error
	if notify != nil {
		events, errs = notify.Events, notify.Errors
	}
	poll := s.Poll
	if poll <= 0 {
		poll = defaultPoll
	}
	timer := time.NewTimer(poll)
	defer timer.Stop()
	waiting := false // for a change to be over
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-errs: // events were lost: as good as one
		case <-events:
		case <-timer.C:
			watch(notify, s.Dir) // the folder may be a new one
			waiting = !files.read(debounce)
			if err := out.publish(ctx, files); err != nil {
				return stopped(ctx, err)
			}
			timer.Reset(poll)
			if waiting {
				timer.Reset(debounce)
			}
			continue
		}
		if !waiting {
			waiting = true
			timer.Reset(debounce)
		}
	}
}

// watch asks for notifications about dir, again if it has been replaced. What
// cannot be watched is polled.
func watch(notify *fsnotify.Watcher, dir string) {
	if notify != nil {
		_ = notify.Add(dir)
	}
}

// stopped returns err unless the reason is that ctx is done.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// An output passes the state of a folder on, as far as it is new.
type output struct {
	*Source
	convert     kube.Converter
	known       kube.Mirror
	entries     map[Object]conversion // of what was last published
	complaining map[service.Object]bool
	said        map[Error]bool
	ignored     map[string]bool // kinds
	node        *kube.NodeInfo
	published   bool
}

// A conversion is what became of an object.
type conversion struct {
	entry    kube.Entry
	node     *kube.NodeInfo
	problems []service.Problem
}

func newOutput(s *Source) *output {
	o := &output{
		Source:      s,
		complaining: make(map[service.Object]bool),
		ignored:     make(map[string]bool),
	}
	o.convert.All = s.All
	return o
}

// publish passes on everything in f, in one Update if there is any change.
func (o *output) publish(ctx context.Context, f *folder) error {
	objects, doubles := f.objects()
	o.sayErrors(append(f.errors(), doubles...))
	fresh := make(map[Object]conversion, len(objects))
	entries := make(map[service.Object]kube.Entry, len(objects))
	problems := make(map[service.Object][]service.Problem)
	var node *kube.NodeInfo
	var others Objects
	changed := len(objects) != len(o.entries) || !o.published
	for _, object := range objects {
		c, ok := o.entries[object]
		if !ok {
			changed = true
			c = o.conversion(object)
		}
		fresh[object] = c
		if _, other := o.More.find(object.ID.Kind); other && object.Value != nil {
			others = append(others, object)
			continue
		}
		entries[object.ID] = c.entry
		if len(c.problems) > 0 {
			problems[object.ID] = c.problems
		}
		if c.node != nil {
			node = c.node
		}
	}
	if !changed {
		return nil
	}
	o.entries = fresh
	o.complain(problems)
	if err := o.Sink.Update(ctx, o.known.Replace(len(entries), maps.All(entries))); err != nil {
		return fmt.Errorf("hand over the manifests: %w", err)
	}
	o.setNode(ctx, node)
	if o.Others != nil {
		if err := o.Others(ctx, others); err != nil {
			return fmt.Errorf("hand over the manifests of other kinds: %w", err)
		}
	}
	o.published = true
	return nil
}

func (o *output) conversion(object Object) conversion {
	var c conversion
	switch v := object.Value.(type) {
	case nil:
		if !o.ignored[object.ID.Kind] {
			o.ignored[object.ID.Kind] = true
			o.Log.Info("objects of this kind are not used", "kind", object.ID.Kind, "file", object.File, "line", object.Line)
		}
	case *corev1.Node:
		info, problems := kube.Node(v)
		if o.NodeName != "" && info.Name == o.NodeName {
			c.node, c.problems = &info, problems
		}
	default:
		c.entry, c.problems = o.convert.Convert(v)
	}
	for _, p := range c.problems {
		o.Log.Warn("problem", "reason", p.Reason, "problem", p.String(), "file", object.File, "line", object.Line)
	}
	return c
}

func (o *output) setNode(ctx context.Context, n *kube.NodeInfo) {
	same := o.published && (n == nil) == (o.node == nil) && (n == nil || n.Equal(*o.node))
	o.node = n
	if !same && o.Node != nil && o.NodeName != "" {
		o.Node(ctx, n)
	}
}

// complain reports the problems of all objects, and that the others have none.
func (o *output) complain(problems map[service.Object][]service.Problem) {
	if o.Report == nil {
		return
	}
	for object := range o.complaining {
		if problems[object] == nil {
			delete(o.complaining, object)
			o.Report(object, nil)
		}
	}
	for object, list := range problems {
		o.complaining[object] = true
		o.Report(object, list)
	}
}

// sayErrors logs the errors that were not there last time, and when all are
// gone.
func (o *output) sayErrors(errs []*Error) {
	said := make(map[Error]bool, len(errs))
	for _, e := range errs {
		if !o.said[*e] && !said[*e] {
			o.Log.Warn("error in a manifest", "file", e.File, "line", e.Line, "field", e.Field, "err", e.Msg)
		}
		said[*e] = true
	}
	if len(errs) == 0 && len(o.said) > 0 {
		o.Log.Info("all manifests can be read again", "dir", o.Dir)
	}
	o.said = said
}
