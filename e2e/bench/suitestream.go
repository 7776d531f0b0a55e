//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// stream makes connections to one Service, one after the other, and notes at which
// endpoint each arrives: those that arrive at one that is no longer ready had the
// proxy to blame, and so had those that fail.
type stream struct {
	network *network
	target  netip.AddrPort
	cancel  context.CancelFunc
	done    sync.WaitGroup

	made, failed int // valid when done

	mu       sync.Mutex
	removed  map[netip.Addr]time.Time // when that was announced
	hits     map[netip.Addr]int
	late     []float64 // milliseconds after the endpoint was taken away
	lastLate time.Time
}

const (
	streamPause    = 2 * time.Millisecond
	streamPatience = time.Second
)

// newStream begins to make connections. It lasts until stop.
func newStream(ctx context.Context, n *network, to netip.AddrPort) *stream {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{network: n, target: to, cancel: cancel, removed: map[netip.Addr]time.Time{}, hits: map[netip.Addr]int{}}
	arrived := s.arrived
	n.accept.arrived.Store(&arrived)
	s.done.Go(func() {
		for sleep(ctx, streamPause) == nil {
			s.made++
			if n.pod.Do(func() error { return callOnce(to, streamPatience) }) != nil {
				s.failed++
			}
		}
	})
	return s
}

func (s *stream) arrived(at netip.Addr) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits[at]++
	if since, gone := s.removed[at]; gone {
		s.late = append(s.late, milliseconds(now.Sub(since)))
		s.lastLate = now
	}
}

// remove says that an endpoint is no longer ready.
func (s *stream) remove(at time.Time, addrs ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range addrs {
		s.removed[a] = at
	}
}

// stop ends the connections.
func (s *stream) stop() {
	s.cancel()
	s.done.Wait()
	s.network.accept.arrived.Store(nil)
}

// note adds what was seen, under names that begin with a prefix.
func (s *stream) note(o *outcome, prefix string) {
	o.add(metric(prefix+"_connections"), float64(s.made))
	o.add(metric(prefix+"_failed"), float64(s.failed))
	o.add(metric(prefix+"_late"), float64(len(s.late)))
	worst := 0.0
	if len(s.late) > 0 {
		worst = maximum(s.late)
	}
	o.add(metric(prefix+"_latest_ms"), worst)
}

// callOnce connects, and waits until the endpoint has ended the connection, as all
// endpoints do at once.
func callOnce(to netip.AddrPort, patience time.Duration) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(patience))
	err = errors.Join(resetOnClose(fd),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	if err != nil {
		return err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	for errors.Is(err, unix.EINTR) || errors.Is(err, unix.EALREADY) { // the Go scheduler's signal
		if err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); errors.Is(err, unix.EISCONN) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	buf := make([]byte, 1)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n != 0:
			return errors.New("an endpoint said something")
		default:
			return nil
		}
	}
}

const (
	faithEndpoints = 10              // of the Service that faith looks at
	faithSpan      = 3 * time.Second // while nothing changes, and again while endpoints do
)

// faith looks at who is connected to, first while nothing changes and then while
// endpoints come and go, of this Service and of all others.
func (t *suiteTrial) faith(ctx context.Context) error {
	service := t.spec.large(0)
	still := newStream(ctx, t.network, vip(service))
	err := sleep(ctx, faithSpan)
	still.stop()
	if err != nil {
		return err
	}
	if len(still.hits) > 0 {
		t.out.add(faithSkew, chiSquared(still.hits, faithEndpoints))
		t.out.add(faithSeen, float64(len(still.hits)))
	}
	s := newStream(ctx, t.network, vip(service))
	err = t.rotate(ctx, s, service)
	s.stop()
	if err != nil {
		return err
	}
	s.note(t.out, "faith")
	return nil
}

// Metrics of faith that are not a stream's.
const (
	faithSkew metric = "faith_chi_squared"
	faithSeen metric = "faith_endpoints_seen"
)

// rotate moves an endpoint of a Service five times per second, and others of other
// Services 15 times, and then waits until the last change must be in force.
func (t *suiteTrial) rotate(ctx context.Context, s *stream, service int) error {
	const tick = 50 * time.Millisecond // 20/s
	at, err := t.slice(service, 0)
	if err != nil {
		return err
	}
	addrs := addrsOf(at)
	for c := range int(faithSpan / tick) {
		t.moved++
		next := t.spec.spare(suiteProbes*2 + t.moved)
		if c%4 == 0 {
			k := c / 4 % len(addrs)
			old := addrs[k]
			addrs[k] = next
			change := t.network.replay.store.write(partAt(service, 0, addrs))
			sent, err := awaitSent(ctx, change)
			if err != nil {
				return err
			}
			s.remove(sent, old)
		} else if _, err := t.network.moveEndpoint(ctx, t.moved*churnStride%t.spec.Services, 0, next); err != nil {
			return err
		}
		if err := sleep(ctx, tick); err != nil {
			return err
		}
	}
	return sleep(ctx, settle)
}

// chiSquared is Pearson's statistic of an even distribution over n cells.
func chiSquared(hits map[netip.Addr]int, n int) float64 {
	total := 0
	for _, h := range hits {
		total += h
	}
	want := float64(total) / float64(n)
	sum := want * float64(n-len(hits)) // cells with nothing
	for _, h := range hits {
		sum += (float64(h) - want) * (float64(h) - want) / want
	}
	return sum
}

func awaitSent(ctx context.Context, r *revision) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return r.awaitSent(ctx)
}

// rolling gives a Service of n endpoints new ones, step by step as a Deployment does:
// an old endpoint goes on serving while it terminates, and is gone with the next
// step of its EndpointSlice.
func (t *suiteTrial) rolling(ctx context.Context, k, n int) error {
	const pause = 100 * time.Millisecond // between two steps
	service, step := t.spec.large(k), max(10, n/100)
	before, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	s := newStream(ctx, t.network, vip(service))
	last, err := t.roll(ctx, s, service, n, step, pause)
	if err == nil {
		err = t.faithful(ctx, s)
	}
	s.stop()
	if err != nil {
		return err
	}
	if err := t.rest(ctx, t.options.flipTimeout); err != nil {
		return err
	}
	after, err := t.run.meter.cpu()
	if err != nil {
		return err
	}
	prefix := fmt.Sprintf("rolling_%d", n)
	s.note(t.out, prefix)
	t.out.add(metric(prefix+"_cpu_seconds"), (after - before).Seconds())
	behind := 0.0
	if s.lastLate.After(last) {
		behind = s.lastLate.Sub(last).Seconds()
	}
	t.out.add(metric(prefix+"_behind_seconds"), behind)
	return nil
}

// roll makes the changes of rolling, and returns when the last was announced.
func (t *suiteTrial) roll(ctx context.Context, s *stream, service, n, step int, pause time.Duration) (last time.Time, err error) {
	for first := 0; first < n; first += perSlice {
		o, err := t.slice(service, first/perSlice)
		if err != nil {
			return last, err
		}
		addrs := addrsOf(o)
		for from := 0; from < len(addrs); from += step {
			var old []netip.Addr
			for j := from; j < min(from+step, len(addrs)); j++ {
				t.moved++
				old = append(old, addrs[j])
				addrs[j] = t.spec.spare(suiteProbes*2 + t.moved)
			}
			o := partAt(service, first/perSlice, addrs)
			for _, a := range old {
				o.Endpoints = append(o.Endpoints, terminating(service, a))
			}
			if last, err = awaitSent(ctx, t.network.replay.store.write(o)); err != nil {
				return last, err
			}
			s.remove(last, old...)
			if err := sleep(ctx, pause); err != nil {
				return last, err
			}
		}
		if last, err = awaitSent(ctx, t.network.replay.store.write(partAt(service, first/perSlice, addrs))); err != nil {
			return last, err
		}
	}
	return last, nil
}

// faithful waits until no connection has arrived at an endpoint that is gone for a
// while, and for not much longer than a proxy's slowest round of work.
func (t *suiteTrial) faithful(ctx context.Context, s *stream) error {
	const calm = 1500 * time.Millisecond
	begun := time.Now()
	for time.Since(begun) < t.options.flipTimeout {
		s.mu.Lock()
		quiet := time.Since(s.lastLate)
		s.mu.Unlock()
		if quiet > calm && time.Since(begun) > calm {
			return nil
		}
		if err := sleep(ctx, calm/3); err != nil {
			return err
		}
	}
	return fmt.Errorf("connections arrived at endpoints that had been gone for %v", t.options.flipTimeout)
}
