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
	// chunk is how much is written at once. No line is longer.
	chunk = 64 << 10
	// delay is for how long lines gather before they are written together, unless a chunk is full.
	delay = 10 * time.Millisecond
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
	chunks  sync.Pool     // of *lines
	queued  atomic.Int64  // bytes, those being written included
	wake    chan struct{}
	waiting atomic.Bool // Run has been woken, and has not begun to write
	full    chan struct{}

	written atomic.Uint64
	dropped atomic.Uint64
}

// A lane is a part of the queue.
type lane struct {
	mu     sync.Mutex
	chunks []*lines // the last one is being filled
	_      [64]byte // lanes must not share a cache line
}

// lines are some whole lines.
type lines struct {
	n   uint64
	buf []byte
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
	l.pool.New = func() any { return &line{lane: &l.lanes[l.next.Add(1)%lanes], buf: make([]byte, 0, 1024)} }
	l.chunks.New = func() any { return &lines{buf: make([]byte, 0, chunk)} }
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
	if n > chunk || l.queued.Add(n) > l.limit {
		if n <= chunk {
			l.queued.Add(-n)
		}
		l.dropped.Add(1)
		return
	}
	if ln.lane.put(ln.buf, &l.chunks) {
		poke(l.full)
	}
	if !l.waiting.Load() && !l.waiting.Swap(true) {
		poke(l.wake)
	}
}

// put adds a line, and reports whether that has filled a chunk.
func (la *lane) put(b []byte, pool *sync.Pool) (full bool) {
	la.mu.Lock()
	defer la.mu.Unlock()
	n := len(la.chunks)
	if n == 0 || len(la.chunks[n-1].buf)+len(b) > chunk {
		la.chunks = append(la.chunks, pool.Get().(*lines))
		full = n > 0
		n++
	}
	last := la.chunks[n-1]
	last.buf = append(last.buf, b...)
	last.n++
	return full
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
	var last error
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-l.wake:
			timer.Reset(delay)
			select {
			case <-ctx.Done():
			case <-l.full:
			case <-timer.C:
			}
			l.waiting.Store(false)
		}
		if err := l.flush(); err != nil {
			last = fmt.Errorf("write the access log: %w", err)
		}
		if ctx.Err() != nil {
			return last
		}
	}
}

// flush writes what is in the lanes.
func (l *Log) flush() error {
	var last error
	var taken []*lines
	for i := range l.lanes {
		la := &l.lanes[i]
		la.mu.Lock()
		taken = append(taken, la.chunks...)
		clear(la.chunks)
		la.chunks = la.chunks[:0]
		la.mu.Unlock()
	}
	for _, c := range taken {
		if _, err := l.w.Write(c.buf); err != nil {
			last = err
			l.dropped.Add(c.n)
		} else {
			l.written.Add(c.n)
		}
		l.queued.Add(-int64(len(c.buf)))
		c.n, c.buf = 0, c.buf[:0]
		l.chunks.Put(c)
	}
	return last
}

// Lines returns how many lines have been written, and how many were dropped for want of space or because of an error.
// On a nil Log both are 0.
func (l *Log) Lines() (written, dropped uint64) {
	if l == nil {
		return 0, 0
	}
	return l.written.Load(), l.dropped.Load()
}
