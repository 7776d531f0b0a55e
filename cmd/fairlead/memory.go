package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube/watch"
)

// The ways to decode objects of the API.
const (
	decoderCompact = "compact"
	decoderTyped   = "typed"
)

// decoderFlags say how objects of the API are decoded.
type decoderFlags struct{ Decoder string }

func (f *decoderFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.Decoder, "api-decoder", decoderCompact,
		"how objects from the API server are decoded: compact reads what counts, typed all of them, with more memory and time and the same result (not in kube-proxy)")
}

func (f *decoderFlags) check(fail failFunc) {
	if f.Decoder != decoderCompact && f.Decoder != decoderTyped {
		fail("api-decoder", "unknown decoder %q; valid: compact, typed", f.Decoder)
	}
}

// compact returns what reads objects the short way, nil if they are to be read the
// long way.
func (f *decoderFlags) compact(rc *rest.Config) (*watch.Compact, error) {
	if f.Decoder == decoderTyped {
		return nil, nil
	}
	return watch.NewCompact(rc)
}

// sampleMemory leaves out the samples of memory that only /debug/pprof shows.
func (f *flags) sampleMemory() {
	if !f.Profiling {
		runtime.MemProfileRate = 0
	}
}

// quietFor is how long nothing must have changed for memory to be given back again.
const quietFor = 10 * time.Second

// A frugal is a Dataplane that gives memory back to the system which only its work
// has needed: after the first Sync, with what it took to read all objects and to
// make everything of them, and whenever changes have come to an end.
type frugal struct {
	service.Dataplane
	give  func()
	quiet *time.Timer // nil before the first Sync
}

func newFrugal(plane service.Dataplane, gc *gcPacer, log *slog.Logger) *frugal {
	started := sync.OnceFunc(gc.calm)
	return &frugal{Dataplane: plane, give: func() {
		started()
		giveBack(log)
	}}
}

// Sync is that of the Dataplane.
func (f *frugal) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	report, err := f.Dataplane.Sync(ctx, snap)
	switch {
	case err != nil:
	case f.quiet == nil:
		f.quiet = time.AfterFunc(0, f.give)
	default:
		f.quiet.Reset(quietFor)
	}
	return report, err
}

// giveBack gives back what is not in use, of the heap and of the program itself.
func giveBack(log *slog.Logger) {
	debug.FreeOSMemory()
	if err := forgetProgram(); err != nil {
		log.Debug("the part of the program that only the start has needed stays in memory", "err", err)
	}
}

// forgetProgram takes the program's own code and constants out of this process. What
// is used again comes back from the page cache, a few pages at a time. A third of
// what the process had in memory is what packages do when it starts.
func forgetProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		from, to, ok := constantPart(lines.Text(), exe)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back %x-%x of %s: %w", from, to, exe, errno)
		}
	}
	return lines.Err()
}

// constantPart returns where a line of /proc/PID/maps says that a part of the file
// exe is that nobody can write to, and so is the same in memory as in the file.
func constantPart(line, exe string) (from, to uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) != 6 || fields[5] != exe || fields[1] != "r--p" && fields[1] != "r-xp" {
		return 0, 0, false
	}
	first, last, _ := strings.Cut(fields[0], "-")
	a, err := strconv.ParseUint(first, 16, strconv.IntSize)
	b, err2 := strconv.ParseUint(last, 16, strconv.IntSize)
	return uintptr(a), uintptr(b), err == nil && err2 == nil && a < b
}
