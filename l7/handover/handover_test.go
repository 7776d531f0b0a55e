//go:build linux

package handover_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/handover"
)

// A process is the half of one that holds listeners.
type process struct {
	offer  *handover.Offer
	shares map[string]handover.Share
	over   chan error
}

func listen(t *testing.T) handover.Share {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func offer(t *testing.T, path string, shares map[string]handover.Share) *process {
	t.Helper()
	o, err := handover.NewOffer(path, shares)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{offer: o, shares: shares, over: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { p.over <- o.Run(ctx) })
	t.Cleanup(func() { cancel(); tasks.Wait() })
	return p
}

func (p *process) taken() bool {
	select {
	case <-p.offer.Taken():
		return true
	default:
		return false
	}
}

// hello connects to an address and returns the first word from there.
func hello(t *testing.T, addr string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// accept serves a number of clients with a word.
func accept(l net.Listener, n int, word string) error {
	for range n {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, err = io.WriteString(c, word)
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	return nil
}

// TestHandover passes two listeners on, twice. Clients who come in between wait in the queue of the socket.
func TestHandover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	none, err := handover.Take(path)
	if none != nil || err != nil {
		t.Fatalf("taking over from nobody: got %v, %v", none, err)
	}
	first := offer(t, path, map[string]handover.Share{"http": listen(t), "https": listen(t)})
	addr := first.shares["http"].Addr().String()
	for generation := range 2 {
		estate, err := handover.Take(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Keys(estate.Listeners)); !slices.Equal(got, []string{"http", "https"}) {
			t.Fatalf("got %q", got)
		}
		if first.taken() {
			t.Fatal("taken before the other one is ready")
		}
		if err := estate.TakeOver(); err != nil {
			t.Fatal(err)
		}
		<-first.offer.Taken()
		if err := <-first.over; err != nil {
			t.Fatal(err)
		}
		next := map[string]handover.Share{}
		for name, l := range estate.Listeners {
			next[name] = l.(handover.Share)
			t.Cleanup(func() { l.Close() })
		}
		waiting, err := net.Dial("tcp", addr) // while nobody accepts
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range first.shares {
			l.Close()
		}
		first = offer(t, path, next)
		done := make(chan error)
		go func() { done <- accept(next["http"], 2, "new") }()
		if b, err := io.ReadAll(waiting); err != nil || string(b) != "new" {
			t.Fatalf("generation %d: who waited got %q, %v", generation, b, err)
		}
		waiting.Close()
		if got := hello(t, addr); got != "new" {
			t.Fatalf("got %q", got)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// TestAcceptGoesOn has the old process accept while it offers: sending a descriptor must not make the socket a blocking one.
func TestAcceptGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	p := offer(t, path, map[string]handover.Share{"http": listen(t)})
	l := p.shares["http"]
	done := make(chan error)
	go func() { done <- accept(l, 2, "old") }()
	estate, err := handover.Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := estate.Close(); err != nil { // it gives up, and nothing has changed
		t.Fatal(err)
	}
	if got := hello(t, l.Addr().String()); got != "old" {
		t.Errorf("got %q", got)
	}
	time.AfterFunc(50*time.Millisecond, func() { l.Close() }) // wakes Accept, unless that is stuck in the kernel
	select {
	case err := <-done:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Accept does not hear of the end")
	}
	if p.taken() {
		t.Error("a process that gave up has taken over")
	}
}

// TestStuckSuccessor has a process that asks and dies, one that asks and says nothing, and then one that works.
func TestStuckSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	p := offer(t, path, map[string]handover.Share{"http": listen(t)})
	dies, err := handover.Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := dies.Close(); err != nil {
		t.Fatal(err)
	}
	stuck, err := handover.Take(path)
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	strange, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer strange.Close()
	io.WriteString(strange, "never")
	works, err := handover.Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if p.taken() {
		t.Fatal("taken by nobody")
	}
	if err := works.TakeOver(); err != nil {
		t.Fatal(err)
	}
	<-p.offer.Taken()
	if err := <-p.over; err != nil {
		t.Error(err)
	}
	for _, l := range works.Listeners {
		l.Close()
	}
}

func TestOfferReplacesSocketsOnly(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := handover.NewOffer(file, nil); err == nil {
		t.Error("a file was replaced")
	}
	path := filepath.Join(dir, "socket")
	offer(t, path, nil)
	offer(t, path, nil)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("the socket's mode is %v", got)
	}
	many := map[string]handover.Share{}
	for i := range 17 {
		many[string(rune('a'+i))] = nil
	}
	if _, err := handover.NewOffer(path, many); err == nil {
		t.Error("17 listeners are no error")
	}
}
