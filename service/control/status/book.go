package status

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// maxNotes is how many warnings and errors are remembered.
const maxNotes = 16

// A Book remembers what has happened in this process. Its methods may be called
// from any goroutine; the zero Book is empty.
type Book struct {
	mu      sync.Mutex
	planes  []*plane
	objects map[service.Object][]service.Problem
	notes   []Note
	line    bytes.Buffer // the note being written
	l7      *L7
}

// A plane is a dataplane with somebody who looks on.
type plane struct {
	service.Dataplane
	book *Book
	doc  Dataplane
	snap *service.Snapshot // in force
}

// Observe returns dp, noting what it does under a name. It changes nothing about
// what dp does or returns.
func (b *Book) Observe(name string, dp service.Dataplane) service.Dataplane {
	p := &plane{Dataplane: dp, book: b, doc: Dataplane{Name: name}}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.planes = append(b.planes, p)
	return p
}

// Sync implements service.Dataplane.
func (p *plane) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	p.book.mu.Lock()
	p.doc.Attempted = snap.Rev
	p.book.mu.Unlock()
	start := time.Now()
	rep, err := p.Dataplane.Sync(ctx, snap)
	end := time.Now()
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	if err != nil {
		p.fail(ctx, "sync", err, end)
		return rep, err
	}
	p.snap, p.doc.Revision = snap, snap.Rev
	p.doc.Syncs++
	p.doc.LastSync = call(rep, start, end)
	p.doc.Failing = nil
	p.doc.Deviations = deviations(rep)
	return rep, nil
}

// Audit implements service.Dataplane.
func (p *plane) Audit(ctx context.Context) (service.Report, error) {
	start := time.Now()
	rep, err := p.Dataplane.Audit(ctx)
	end := time.Now()
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	if err != nil {
		p.fail(ctx, "audit", err, end)
		return rep, err
	}
	p.doc.LastAudit = call(rep, start, end)
	if rep.Repaired {
		p.doc.Repairs++
	}
	for _, d := range deviations(rep) {
		if !slices.Contains(p.doc.Deviations, d) {
			p.doc.Deviations = append(slices.Clone(p.doc.Deviations), d)
		}
	}
	return rep, nil
}

// fail notes an error, unless it comes from being told to stop.
func (p *plane) fail(ctx context.Context, what string, err error, now time.Time) {
	if ctx.Err() != nil {
		return
	}
	p.doc.Failures++
	f := Failure{Since: now, Last: now, Times: 1, What: what, Error: err.Error()}
	if p.doc.Failing != nil {
		f.Since, f.Times = p.doc.Failing.Since, p.doc.Failing.Times+1
	}
	p.doc.Failing, p.doc.LastError = &f, &f
}

func call(rep service.Report, start, end time.Time) *Call {
	return &Call{
		At: end, Took: end.Sub(start), Added: rep.Added, Changed: rep.Changed, Removed: rep.Removed,
		Resynced: rep.Resynced, Repaired: rep.Repaired,
	}
}

func deviations(rep service.Report) []Deviation {
	var out []Deviation
	for _, d := range rep.Deviations {
		out = append(out, Deviation{Port: d.Port.String(), Reason: d.Reason, Here: d.Here})
	}
	return out
}

// Objects returns report, noting the problems of each object while they last.
func (b *Book) Objects(report func(service.Object, []service.Problem)) func(service.Object, []service.Problem) {
	return func(o service.Object, problems []service.Problem) {
		b.mu.Lock()
		if b.objects == nil {
			b.objects = make(map[service.Object][]service.Problem)
		}
		if len(problems) == 0 {
			delete(b.objects, o)
		} else {
			b.objects[o] = slices.Clone(problems)
		}
		b.mu.Unlock()
		report(o, problems)
	}
}

// SetL7 notes that the child has been started as pid, or has ended if that is 0.
func (b *Book) SetL7(pid int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.l7 == nil {
		b.l7 = &L7{}
	}
	b.l7.PID, b.l7.Since = pid, time.Now()
	if pid != 0 {
		b.l7.Starts++
	}
}

// Handler returns a handler that does what next does, and notes warnings and
// errors.
func (b *Book) Handler(next slog.Handler) slog.Handler {
	bare := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	return &handler{next: next, book: b, text: slog.NewTextHandler(&b.line, &slog.HandlerOptions{ReplaceAttr: bare})}
}

// A handler is that of Book.Handler. Text writes into the line of the book, and
// is used with its lock held.
type handler struct {
	next, text slog.Handler
	book       *Book
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn || h.next.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		h.book.note(ctx, h.text, r)
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.next.WithAttrs(attrs), h.text.WithAttrs(attrs), h.book}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.next.WithGroup(name), h.text.WithGroup(name), h.book}
}

func (b *Book) note(ctx context.Context, text slog.Handler, r slog.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.line.Reset()
	if text.Handle(ctx, r) != nil { // a buffer takes everything
		return
	}
	n := Note{At: r.Time, Level: strings.ToLower(r.Level.String()), Text: strings.TrimSpace(b.line.String()), Times: 1}
	if last := len(b.notes) - 1; last >= 0 && b.notes[last].Text == n.Text {
		n.Times += b.notes[last].Times
		b.notes = b.notes[:last]
	}
	b.notes = append(b.notes, n)
	b.notes = b.notes[max(0, len(b.notes)-maxNotes):]
}

// Snapshot returns what is in force in every dataplane, nil before the first
// sync. Where one of them is behind, it is what that one has.
func (b *Book) Snapshot() *service.Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snapshot()
}

func (b *Book) snapshot() *service.Snapshot {
	if len(b.planes) == 0 {
		return nil
	}
	oldest := b.planes[0].snap
	for _, p := range b.planes {
		if p.snap == nil {
			return nil
		}
		if p.snap.Rev < oldest.Rev {
			oldest = p.snap
		}
	}
	return oldest
}

// Document adds what the book holds to what is known of the process.
func (b *Book) Document(d Document) Document {
	b.mu.Lock()
	snap := b.snapshot()
	d.Dataplanes = make([]Dataplane, 0, len(b.planes))
	for _, p := range b.planes {
		doc := p.doc // what it points to is not changed any more
		if doc.Deviations == nil {
			doc.Deviations = []Deviation{}
		}
		d.Dataplanes = append(d.Dataplanes, doc)
	}
	d.Notes = slices.Concat([]Note{}, b.notes)
	d.Problems = b.problems(snap)
	if b.l7 != nil {
		l7 := *b.l7
		d.L7 = &l7
	}
	b.mu.Unlock()
	if snap != nil {
		d.Revision = snap.Rev
	}
	d.Counts = count(snap)
	return d
}

// problems lists those of objects and of snap, which may be nil.
func (b *Book) problems(snap *service.Snapshot) []string {
	all := slices.Concat(slices.Collect(maps.Values(b.objects))...)
	if snap != nil {
		all = append(all, snap.Problems...)
	}
	slices.SortFunc(all, func(x, y service.Problem) int {
		return cmp.Or(x.Object.Name.Compare(y.Object.Name), strings.Compare(x.String(), y.String()))
	})
	out := []string{}
	for _, p := range slices.Compact(all) {
		out = append(out, p.Reason+": "+p.String())
	}
	return out
}
