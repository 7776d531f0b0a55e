package std

import (
	"sync"
	"time"
)

// A watch ends a call that takes too long. HTTP/1.1 needs none, since the Gate has deadlines; one of
// a connection says nothing about a stream of HTTP/2, which may stand still for itself.
type watch struct {
	gap time.Duration // 0: without end
	cut func()        // ends the call; called once at most, while it is under way

	mu    sync.Mutex
	timer *time.Timer
	busy  bool
	late  bool
}

func (w *watch) begin() {
	if w.gap <= 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = true
	if w.timer == nil {
		w.timer = time.AfterFunc(w.gap, w.fire)
	} else {
		w.timer.Reset(w.gap)
	}
}

// end reports whether the call was ended.
func (w *watch) end() bool {
	if w.gap <= 0 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	w.timer.Stop()
	return w.late
}

func (w *watch) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy && !w.late {
		w.late = true
		w.cut()
	}
}
