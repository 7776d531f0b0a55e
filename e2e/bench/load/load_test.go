//go:build linux

package load_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
)

func listen(t *testing.T) (net.Listener, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, l.Addr().(*net.TCPAddr).AddrPort()
}

func TestLoads(t *testing.T) {
	listeners, at := map[load.Kind][]net.Listener{}, map[load.Kind]netip.AddrPort{}
	for _, k := range []load.Kind{load.Ping, load.Connect, load.Bulk} {
		l, addr := listen(t)
		listeners[k], at[k] = []net.Listener{l}, addr
	}
	s, err := load.NewServer(listeners)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for kind, target := range at {
		marks := 0
		l := load.Load{Kind: kind, Target: target, Conns: 3, Warmup: 20 * time.Millisecond, Duration: 100 * time.Millisecond}
		got, err := l.Run(t.Context(), func() error { marks++; return nil })
		if err != nil || got.Failed > 0 || got.FirstError != nil {
			t.Errorf("%v: %d failures, %v; %v", kind, got.Failed, got.FirstError, err)
		}
		if got.Operations < 10 || marks != 2 || got.Elapsed < l.Duration {
			t.Errorf("%v: got %d operations, %d marks, %v elapsed", kind, got.Operations, marks, got.Elapsed)
		}
	}
}

// TestFailures has loads meet nobody, and somebody who does not answer.
func TestFailures(t *testing.T) {
	l, closed := listen(t)
	l.Close()
	_, err := load.Load{Target: closed, Conns: 1, Duration: time.Minute}.Run(t.Context(), nil)
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody listens: got %v, want ECONNREFUSED", err)
	}
	l, silent := listen(t)
	defer l.Close()
	got, err := load.Load{Target: silent, Conns: 2, Duration: 500 * time.Millisecond, Patience: 50 * time.Millisecond}.Run(t.Context(), nil)
	if err != nil || got.Operations != 0 || got.Failed < 4 {
		t.Errorf("nobody answers: got %+v, %v, want failures", got, err)
	}
	if _, err := (load.Load{Target: silent}).Run(t.Context(), nil); err == nil {
		t.Error("no connections: got no error")
	}
}
