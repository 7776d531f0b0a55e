package std

import (
	"context"
	"net"
	"sync"
	"time"
)

// tunnels are the connections that carry something else than HTTP by now.
type tunnels struct {
	mu   sync.Mutex
	open map[net.Conn]struct{}
	cut  bool          // there will be no more
	none chan struct{} // if not nil: closed when open is empty
}

// Add notes one more; it is to be closed if that is not possible any more.
func (t *tunnels) Add(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cut {
		return false
	}
	t.open[c] = struct{}{}
	return true
}

// Remove notes the end of one.
func (t *tunnels) Remove(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
	if t.none != nil && len(t.open) == 0 {
		close(t.none)
		t.none = nil
	}
}

// cutTime is how long a tunnel may take to notice that its connection is closed.
const cutTime = time.Second

// wait waits until there are none. Those that are left when ctx is done are closed; it returns how many were.
func (t *tunnels) wait(ctx context.Context) int {
	t.mu.Lock()
	none := make(chan struct{})
	if len(t.open) == 0 {
		t.cut = true
		t.mu.Unlock()
		return 0
	}
	t.none = none
	t.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
	t.mu.Lock()
	t.cut = true
	n := len(t.open)
	for c := range t.open {
		c.Close()
	}
	t.mu.Unlock()
	if n > 0 {
		select {
		case <-none:
		case <-time.After(cutTime):
		}
	}
	return n
}
