package main

import (
	"context"
	"os"
	"runtime/debug"
	"sync"

	"github.com/spf13/pflag"
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

// gcPercent is how much garbage may gather, as a share of what is in use. What is
// in use is the state of the cluster, which is much, and a change of it makes
// little garbage: the default of 100 would mostly make the process larger.
const gcPercent = 40

// paceGC sets the pace of the garbage collector, unless the operator has.
func paceGC() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// A frugal is a Dataplane after whose first Sync the memory is given back to the
// system that only the start has needed: for reading all objects and for making
// everything of them.
type frugal struct {
	service.Dataplane
	once sync.Once
}

// Sync is that of the Dataplane.
func (f *frugal) Sync(ctx context.Context, snap *service.Snapshot) (service.Report, error) {
	report, err := f.Dataplane.Sync(ctx, snap)
	if err == nil {
		f.once.Do(func() { go debug.FreeOSMemory() })
	}
	return report, err
}
