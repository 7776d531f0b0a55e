//go:build linux

package child_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/child"
)

// role says to the binary of this test what to be.
const role = "FAIRLEAD_CHILD_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "serve": // until told to stop
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		tell()
		<-stop
		fmt.Println("stopped")
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		tell()
		select {}
	case "fail":
		tell()
		os.Exit(3)
	}
}

// tell prints who we are and what we may do.
func tell() {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	caps := ""
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "CapEff:") || strings.HasPrefix(line, "Groups:") {
			caps += " " + strings.Join(strings.Fields(line), "")
		}
	}
	fmt.Printf("pid %d uid %d gid %d%s\n", os.Getpid(), os.Getuid(), os.Getgid(), caps)
}

// A run is a child that is looked after.
type run struct {
	out  *bufio.Scanner
	stop context.CancelFunc
	over chan error
}

func start(t *testing.T, what string, uid uint32, grace time.Duration) *run {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if uid != 0 { // somewhere the other user may read
		self = readable(t, self)
	}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	x := &run{out: bufio.NewScanner(r), stop: cancel, over: make(chan error, 1)}
	go func() {
		x.over <- child.Run(ctx, child.Config{
			Path: self, Env: append(os.Environ(), role+"="+what), UID: uid, GID: uid, Out: w, Err: os.Stderr,
			Log: slog.New(slog.DiscardHandler), Grace: grace,
		})
		w.Close()
	}()
	t.Cleanup(cancel)
	return x
}

func readable(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp("", "fairlead-child-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Chmod(0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func (r *run) line(t *testing.T) string {
	t.Helper()
	if !r.out.Scan() {
		t.Fatalf("no line: %v", r.out.Err())
	}
	return r.out.Text()
}

// end waits until the child is gone for good.
func (r *run) end(t *testing.T) {
	t.Helper()
	r.stop()
	for r.out.Scan() {
	}
	if err := <-r.over; err != nil {
		t.Error(err)
	}
}

func TestStop(t *testing.T) {
	r := start(t, "serve", 0, 10*time.Second)
	r.line(t)
	r.stop()
	if got := r.line(t); got != "stopped" {
		t.Errorf("got %q", got)
	}
	r.end(t)
}

func TestGrace(t *testing.T) {
	r := start(t, "deaf", 0, 50*time.Millisecond)
	r.line(t)
	r.end(t)
}

func TestAgain(t *testing.T) {
	r := start(t, "fail", 0, time.Second)
	first := r.line(t)
	if second := r.line(t); second == first {
		t.Errorf("the same process twice: %s", first)
	}
	r.end(t)
}

func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start a process as another user")
	}
	r := start(t, "serve", 65532, time.Second)
	got := r.line(t)
	// CAP_NET_BIND_SERVICE is number 10.
	for _, want := range []string{"uid 65532 gid 65532", "CapEff:0000000000000400"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	if !strings.Contains(got, "Groups:") || strings.Contains(got, "Groups:0") {
		t.Errorf("got %q, want no groups of the parent", got)
	}
	r.end(t)
}

func TestNoProgram(t *testing.T) {
	err := child.Run(t.Context(), child.Config{Path: "/nonexistent", Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "start the L7 process") {
		t.Errorf("got %v", err)
	}
}
