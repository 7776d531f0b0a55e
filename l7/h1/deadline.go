package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// errOwnDeadline tells the Gate's deadlines from the server's.
var errOwnDeadline = errors.New("http/1: too slow")

// A deadline is the read deadline of a connection when two have a say in it: the server,
// which also interrupts its own reads by a deadline in the past, and the Gate. It touches
// the connection's timer only when that would fire too late.
type deadline struct {
	conn        net.Conn
	mu          sync.Mutex
	theirs      time.Time
	armed       time.Time // what conn has
	spent       bool      // armed has passed
	reading     bool
	interrupted bool
	hurried     bool         // the read that is going on, or was, may take no longer
	begun       atomic.Int64 // when the head began that is being read, in ns since 1970; 0: none is
	alone       bool         // the reader's: of the server's deadlines only interruptions count
	closed      atomic.Bool

	dozing bool
	wake   chan struct{} // of a reader that dozes; nil until one has
	alarm  *time.Timer
}

// patience is how long a request may take before the connection is watched for the client's end.
const patience = 20 * time.Millisecond

// doze lets patience pass, unless the server interrupts its reads. While it answers a request, net/http waits for one byte
// of the next in order to see the client go; for most requests an attempt to read, a wait for the kernel
// and two moves of its timer would be in vain.
func (d *deadline) doze() error {
	d.mu.Lock()
	if d.interrupted || longAgo(d.theirs) {
		d.mu.Unlock()
		return os.ErrDeadlineExceeded
	}
	if d.wake == nil {
		d.wake, d.alarm = make(chan struct{}, 1), time.NewTimer(patience)
	} else {
		d.alarm.Reset(patience)
	}
	d.dozing = true
	d.mu.Unlock()
	var err error
	select {
	case <-d.wake:
		err = os.ErrDeadlineExceeded
		d.alarm.Stop()
	case <-d.alarm.C:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dozing = false
	select {
	case <-d.wake:
		err = os.ErrDeadlineExceeded
	default:
	}
	return err
}

// rouse ends doze. The caller has the lock.
func (d *deadline) rouse() {
	if d.dozing {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
}

// set is the server's deadline.
func (d *deadline) set(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.theirs = t
	if longAgo(t) {
		d.rouse()
	}
	if d.reading && before(t, d.armed) {
		d.armed = t
		return d.conn.SetReadDeadline(t)
	}
	return nil
}

// before orders deadlines, of which the zero one is never.
func before(a, b time.Time) bool {
	return !a.IsZero() && (b.IsZero() || a.Before(b))
}

// interrupt ends the read that is going on, and all later ones.
func (d *deadline) interrupt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.interrupted = true
	d.rouse()
	if d.reading {
		d.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// HurryHead ends the wait for the rest of a head that began before t, as if its time were up. It may be called at any
// time, and reports whether there was such a head.
func (d *deadline) HurryHead(t time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	// While it is not 0 the only read there can be is of that head.
	if began := d.begun.Load(); began == 0 || began >= t.UnixNano() || !d.reading || d.hurried {
		return false
	}
	d.hurried, d.armed = true, time.Unix(1, 0)
	return d.conn.SetReadDeadline(d.armed) == nil
}

// read reads from the connection until the earlier of both deadlines. If it was own, the error is errOwnDeadline.
func (d *deadline) read(p []byte, own time.Time) (int, error) {
	for {
		if err := d.arm(own); err != nil {
			return 0, err
		}
		n, err := d.conn.Read(p)
		if err = d.disarm(err, own); n > 0 {
			return n, nil // TLS gives the end with the last bytes; it will come again
		}
		if err != nil {
			return 0, err
		}
	}
}

func (d *deadline) arm(own time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.interrupted {
		return ErrInterrupted
	}
	d.hurried = false
	want := d.counts()
	if before(own, want) {
		want = own
	}
	if before(want, d.armed) || d.spent {
		if err := d.conn.SetReadDeadline(want); err != nil {
			return err
		}
		d.armed, d.spent = want, false
	}
	d.reading = true
	return nil
}

// disarm sorts out whose deadline has passed, if any: the connection's may have been an old one.
func (d *deadline) disarm(err error, own time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = false
	if d.interrupted {
		return ErrInterrupted
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		d.spent = d.spent || longAgo(d.armed)
		return err
	}
	d.spent = true
	now := time.Now()
	switch {
	case passed(d.counts(), now):
		return err
	case d.hurried, passed(own, now):
		return errOwnDeadline
	}
	return nil
}

// counts returns the server's deadline, or none if it does not count.
func (d *deadline) counts() time.Time {
	if d.alone && !longAgo(d.theirs) {
		return time.Time{}
	}
	return d.theirs
}

func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// longAgo tells the server's way to interrupt a read, which may come just when the read has succeeded.
func longAgo(t time.Time) bool { return !t.IsZero() && t.Unix() < 1000 }
