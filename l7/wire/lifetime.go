package wire

import (
	"context"
	"sync"
	"time"
)

// A lifetime is the context of a request. It ends with the client, or with the request.
type lifetime struct {
	mu        sync.Mutex
	over      bool
	used      bool        // somebody has asked for first
	first     func()      // of the first AfterFunc
	stopFirst func() bool // takes it back; bound once
	more      map[*func()]struct{}
	done      chan struct{} // nil until somebody asks for it
}

var _ context.Context = (*lifetime)(nil)

// Deadline is of context.Context. There is none.
func (l *lifetime) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value is of context.Context. There is none.
func (l *lifetime) Value(any) any { return nil }

// Err is of context.Context.
func (l *lifetime) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return context.Canceled
	}
	return nil
}

// Done is of context.Context.
func (l *lifetime) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.over {
			close(l.done)
		}
	}
	return l.done
}

// AfterFunc is context.AfterFunc, without its price for requests with whom one waits. Only the first has stopFirst: contexts
// take back what they have asked for more than once, and the second time must not meet somebody else's.
func (l *lifetime) AfterFunc(f func()) func() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over:
		go f()
		return func() bool { return false }
	case !l.used:
		l.used, l.first = true, f
		return l.stopFirst
	}
	key := &f
	if l.more == nil {
		l.more = make(map[*func()]struct{})
	}
	l.more[key] = struct{}{}
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		_, was := l.more[key]
		delete(l.more, key)
		return was
	}
}

func (l *lifetime) clearFirst() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.first != nil
	l.first = nil
	return was
}

// cancel ends it.
func (l *lifetime) cancel() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.over = true
	if l.done != nil {
		close(l.done)
	}
	if l.first != nil {
		go l.first()
		l.first = nil
	}
	for f := range l.more {
		go (*f)()
	}
	l.more = nil
}

// end ends it with the request. It reports false if somebody might not have noticed, so that it
// cannot be used again.
func (l *lifetime) end() bool {
	l.mu.Lock()
	unnoticed := !l.over && l.first == nil && len(l.more) == 0 && l.done == nil
	l.used = false
	l.mu.Unlock()
	if !unnoticed {
		l.cancel()
	}
	return unnoticed
}
