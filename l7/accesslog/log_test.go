package accesslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A sink is a writer that can be held up and made to fail.
type sink struct {
	mu     sync.Mutex // held: Write waits
	buf    bytes.Buffer
	writes int
	err    error
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.err != nil {
		return 0, s.err
	}
	return s.buf.Write(b)
}

func (s *sink) take() (lines []string, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := strings.TrimSuffix(s.buf.String(), "\n")
	if text != "" {
		lines = strings.Split(text, "\n")
	}
	writes = s.writes
	s.buf.Reset()
	s.writes = 0
	return lines, writes
}

// running starts a Log and returns it with what ends it.
func running(t *testing.T, w io.Writer, c Config) (*Log, func() error) {
	t.Helper()
	l, err := New(w, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return l, func() error { cancel(); return <-done }
}

func request(path string) *exchange.Exchange {
	return &exchange.Exchange{Request: exchange.Request{Method: "GET", RawPath: path, Path: path}}
}

func TestGathersLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l, stop := running(t, &s, Config{Format: "$request_uri"})
		synctest.Wait()
		for i := range 100 {
			l.Write(request(fmt.Sprintf("/%d", i)), Done{})
		}
		synctest.Wait()
		if _, n := s.take(); n != 0 {
			t.Errorf("%d writes at once, want none", n)
		}
		time.Sleep(delay)
		synctest.Wait()
		lines, n := s.take()
		if len(lines) != 100 || n > lanes {
			t.Errorf("%d lines in %d writes, want 100 in at most %d", len(lines), n, lanes)
		}
		time.Sleep(time.Hour)
		l.Write(request("/last"), Done{})
		if err := stop(); err != nil {
			t.Error(err)
		}
		if lines, _ := s.take(); len(lines) != 1 || lines[0] != "/last" {
			t.Errorf("written at the end: %v", lines)
		}
		if w, d := l.Lines(); w != 101 || d != 0 {
			t.Errorf("%d written, %d dropped, want 101 and 0", w, d)
		}
		if q := l.queued.Load(); q != 0 {
			t.Errorf("%d bytes are queued at the end", q)
		}
	})
}

// TestLongBatches looks whether much is written before its time.
func TestLongBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l, stop := running(t, &s, Config{})
		long := request("/" + strings.Repeat("a", 1000))
		start := time.Now()
		for range lanes*chunk/1000 + lanes {
			l.Write(long, Done{})
		}
		synctest.Wait()
		if lines, _ := s.take(); len(lines) == 0 || time.Now() != start {
			t.Errorf("%d lines after %v", len(lines), time.Since(start))
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestNeverWaits holds the writer up and looks whether requests go on, and lines that do not fit are counted.
func TestNeverWaits(t *testing.T) {
	var s sink
	l, stop := running(t, &s, Config{Format: "$request_uri", Queue: 1000})
	s.mu.Lock()
	for range 1000 {
		l.Write(request("/23456789"), Done{})
	}
	_, dropped := l.Lines()
	if queued := l.queued.Load(); dropped != 900 || queued != 1000 {
		t.Errorf("%d dropped and %d bytes queued, want 900 and 1000", dropped, queued)
	}
	s.mu.Unlock()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if lines, _ := s.take(); len(lines) != 100 {
		t.Errorf("%d lines written, want 100", len(lines))
	}
	if w, d := l.Lines(); w != 100 || d != 900 {
		t.Errorf("%d written, %d dropped", w, d)
	}
}

func TestWriteErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("disk full")
		s := sink{err: broken}
		l, stop := running(t, &s, Config{Format: "$request_uri"})
		l.Write(request("/lost"), Done{})
		time.Sleep(time.Second)
		synctest.Wait()
		if w, d := l.Lines(); w != 0 || d != 1 {
			t.Errorf("%d written, %d dropped, want 0 and 1", w, d)
		}
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		l.Write(request("/good"), Done{})
		time.Sleep(time.Second)
		synctest.Wait()
		if lines, _ := s.take(); len(lines) != 1 || lines[0] != "/good" {
			t.Errorf("written after the error: %v", lines)
		}
		if err := stop(); !errors.Is(err, broken) {
			t.Errorf("Run returned %v, want %v", err, broken)
		}
	})
}

func TestConfigure(t *testing.T) {
	var s sink
	l, stop := running(t, &s, Config{Format: "$request_uri", Skip: []string{"/healthz", "", "/x/"}})
	write := func(paths ...string) {
		for _, p := range paths {
			l.Write(request(p), Done{})
		}
	}
	write("/a", "/healthz", "/healthz/deep", "/x", "/x/y")
	if err := l.Configure(Config{Format: "$bad"}); err == nil {
		t.Error("a bad format was taken")
	}
	write("/b")
	if err := l.Configure(Config{Off: true}); err != nil {
		t.Error(err)
	}
	write("/c")
	if err := l.Configure(Config{Format: "<$request_uri>"}); err != nil {
		t.Error(err)
	}
	write("/healthz")
	if err := stop(); err != nil {
		t.Error(err)
	}
	lines, _ := s.take()
	got := map[string]bool{}
	for _, l := range lines {
		got[l] = true
	}
	if len(lines) != 4 || !got["/a"] || !got["/x"] || !got["/b"] || !got["</healthz>"] {
		t.Errorf("logged %v, want /a, /x, /b and </healthz>", lines)
	}
	var none *Log
	none.Write(request("/"), Done{})
	if w, d := none.Lines(); w != 0 || d != 0 {
		t.Error("no Log has lines")
	}
}

// TestManyWriters looks whether lines stay whole and none gets lost, while the format changes.
func TestManyWriters(t *testing.T) {
	var s sink
	l, stop := running(t, &s, Config{Format: "<$request_uri>"})
	const writers, each = 8, 2000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				l.Write(request(fmt.Sprintf("/%d/%d", w, i)), Done{Now: at()})
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			if err := l.Configure(Config{Format: "<$request_uri>", EscapeJSON: true}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := stop(); err != nil {
		t.Error(err)
	}
	lines, _ := s.take()
	seen := map[string]bool{}
	for _, line := range lines {
		var w, i int
		if _, err := fmt.Sscanf(line, "</%d/%d>", &w, &i); err != nil || seen[line] {
			t.Fatalf("line %q: %v", line, err)
		}
		seen[line] = true
	}
	if len(seen) != writers*each {
		t.Errorf("%d lines, want %d", len(seen), writers*each)
	}
}

func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools at random")
	}
	for name, c := range map[string]Config{
		"json": {}, "template": {Format: UpstreamInfo}, "escape json": {Format: UpstreamInfo, EscapeJSON: true}, "skipped": {Skip: []string{"/a"}},
	} {
		l, err := New(io.Discard, c)
		if err != nil {
			t.Fatal(err)
		}
		x, d := full()
		n := testing.AllocsPerRun(1000, func() {
			l.Write(x, d)
			for i := range l.lanes {
				for _, c := range l.lanes[i].chunks {
					c.buf = c.buf[:0]
				}
			}
			l.queued.Store(0)
		})
		if n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for name, c := range map[string]Config{"json": {}, "template": {Format: UpstreamInfo}} {
		b.Run(name, func(b *testing.B) {
			l, err := New(io.Discard, c)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			wg.Go(func() { _ = l.Run(ctx) })
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				x, d := full()
				x.Tries = x.Tries[1:]
				for pb.Next() {
					l.Write(x, d)
				}
			})
			cancel()
			wg.Wait()
			_, dropped := l.Lines()
			b.ReportMetric(float64(dropped)/float64(b.N), "dropped/op")
		})
	}
}
