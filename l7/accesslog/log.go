package accesslog

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

const (
	defaultQueue = 4 << 20
	// maxLine bounds one line, so that a request with many tries, or a template with many variables, cannot take the queue from all others.
	maxLine = 64 << 10
	// delay is for how long lines gather before they are written together, unless they are batch bytes.
	delay = 10 * time.Millisecond
	batch = 64 << 10
	// keep is the largest buffer that is kept for reuse.
	keep = 1 << 20
	// lanes are what lines queue in, so that CPUs do not meet at one lock.
	lanes = 16
)

// A Config is what the access log says. The zero Config logs every request as JSON.
type Config struct {
	Off        bool
	Skip       []string // beginnings of paths, as received, whose requests are not logged
	Format     string   // a template of nginx; empty: JSON lines
	EscapeJSON bool     // values in Format are escaped as in JSON strings, not nginx' default way
	Queue      int      // bytes of lines that may wait to be written; 0: 4 MiB. Configure does not change it
}

// A Done is what is known of a request when it is over. Its answer and its tries are in the Exchange.
type Done struct {
	Status            int   // what the client was told; 0 if nothing
	BytesIn, BytesOut int64 // of the bodies
	HeadIn, HeadOut   int64 // of the heads on the wire; 0 if not known
	Duration          time.Duration
	Reason            string // why fairlead itself has answered; empty: Response.Reason
	Aborted           bool   // the client has gone: logged as 499
	Now               time.Time
	// Alternative is where a canary has sent the request; nil: nowhere.
	Alternative *exchange.Target
}

// A Log is an access log. It is safe for concurrent use. New makes it.
type Log struct {
	w       io.Writer
	limit   int64
	format  atomic.Pointer[format]
	lanes   [lanes]lane
	next    atomic.Uint32 // lane of the next line
	pool    sync.Pool     // of *line
	queued  atomic.Int64  // bytes, those being written included
	wake    chan struct{}
	waiting atomic.Bool // Run has been woken, and has not begun to write
	full    chan struct{}

	written atomic.Uint64
	dropped atomic.Uint64
}

// A lane is a part of the queue.
type lane struct {
	mu    sync.Mutex
	lines int
	buf   []byte
	_     [64]byte // lanes must not share a cache line
}

// A format is a Config taken apart.
type format struct {
	off   bool
	skip  []string
	parts []part // nil: JSON
	json  bool   // escape as in JSON
}

// New returns a Log that writes to w. The error names what is wrong with the format. Nothing is written until Run.
func New(w io.Writer, c Config) (*Log, error) {
	l := &Log{w: w, limit: int64(c.Queue), wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}
	if l.limit <= 0 {
		l.limit = defaultQueue
	}
	if err := l.Configure(c); err != nil {
		return nil, err
	}
	l.pool.New = func() any { return &line{lane: &l.lanes[l.next.Add(1)%lanes]} }
	return l, nil
}

// Configure puts c in force for the requests that end from now on. If it is bad, what was in force stays.
func (l *Log) Configure(c Config) error {
	f := &format{off: c.Off, skip: slices.DeleteFunc(slices.Clone(c.Skip), func(s string) bool { return s == "" }), json: c.EscapeJSON}
	if c.Format != "" {
		parts, err := parse(c.Format)
		if err != nil {
			return fmt.Errorf("access log format: %w", err)
		}
		f.parts = parts
	}
	l.format.Store(f)
	return nil
}

// Check returns what is wrong with a template, or nil.
func Check(template string) error {
	_, err := parse(template)
	return err
}

// Write logs that x is over. It does not wait, and keeps neither x nor anything of it. On a nil Log it does nothing.
func (l *Log) Write(x *exchange.Exchange, d Done) {
	if l == nil {
		return
	}
	f := l.format.Load()
	if f.off || f.skipped(x.Request.RawPath) {
		return
	}
	ln := l.pool.Get().(*line)
	ln.x, ln.done = x, d
	ln.make(f)
	ln.x, ln.done = nil, Done{}
	l.put(ln)
	l.pool.Put(ln)
}

func (f *format) skipped(path string) bool {
	for _, s := range f.skip {
		if strings.HasPrefix(path, s) {
			return true
		}
	}
	return false
}

// put queues the line in ln.
func (l *Log) put(ln *line) {
	n := int64(len(ln.buf))
	if l.queued.Add(n) > l.limit {
		l.queued.Add(-n)
		l.dropped.Add(1)
		return
	}
	la := ln.lane
	la.mu.Lock()
	la.buf = append(la.buf, ln.buf...)
	la.lines++
	size := len(la.buf)
	la.mu.Unlock()
	if size >= batch && size-len(ln.buf) < batch {
		poke(l.full)
	}
	if !l.waiting.Load() && !l.waiting.Swap(true) {
		poke(l.wake)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run writes what is queued until ctx is done, and then what is left. It waits for the writer as long as that takes. Lines that
// cannot be written are dropped and counted; Run goes on, and returns the last error at its end. It is called once.
func (l *Log) Run(ctx context.Context) error {
	var spare []byte
	var last error
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			_, err := l.flush(spare)
			if err == nil {
				err = last
			}
			if err != nil {
				return fmt.Errorf("write the access log: %w", err)
			}
			return nil
		case <-l.wake:
		}
		timer.Reset(delay)
		select {
		case <-ctx.Done():
		case <-l.full:
		case <-timer.C:
		}
		l.waiting.Store(false)
		var err error
		if spare, err = l.flush(spare); err != nil {
			last = err
		}
	}
}

// flush writes what is in the lanes. It returns a buffer for the next call.
func (l *Log) flush(spare []byte) ([]byte, error) {
	var last error
	for i := range l.lanes {
		la := &l.lanes[i]
		la.mu.Lock()
		if la.lines == 0 {
			la.mu.Unlock()
			continue
		}
		buf, lines := la.buf, la.lines
		la.buf, la.lines = spare[:0], 0
		la.mu.Unlock()
		if _, err := l.w.Write(buf); err != nil {
			last = err
			l.dropped.Add(uint64(lines))
		} else {
			l.written.Add(uint64(lines))
		}
		l.queued.Add(-int64(len(buf)))
		if spare = buf; cap(spare) > keep {
			spare = nil
		}
	}
	return spare, last
}

// Lines returns how many lines have been written, and how many were dropped for want of space or because of an error.
// On a nil Log both are 0.
func (l *Log) Lines() (written, dropped uint64) {
	if l == nil {
		return 0, 0
	}
	return l.written.Load(), l.dropped.Load()
}
