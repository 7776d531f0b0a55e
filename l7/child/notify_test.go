//go:build linux

package child_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/child"
)

// TestNotify holds that who asks is told of each start and each end.
func TestNotify(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	told := make(chan int, 8)
	over := make(chan error, 1)
	go func() {
		over <- child.Run(ctx, child.Config{
			Path: self, Env: append(os.Environ(), role+"=serve"), Out: io.Discard, Err: io.Discard,
			Log: slog.New(slog.DiscardHandler), Grace: 10 * time.Second, Notify: func(pid int) { told <- pid },
		})
	}()
	if pid := <-told; pid <= 0 {
		t.Fatalf("told of process %d, want that of the child", pid)
	}
	stop()
	if pid := <-told; pid != 0 {
		t.Errorf("told of process %d after its end, want 0", pid)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
}
