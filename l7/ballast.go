package l7

import (
	"context"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// ballastSize is how much garbage may gather beyond what is in use. A proxy of few hosts has a heap of a few megabytes, and
// would collect garbage, whose cost is that of the goroutines' stacks, many times a second. One of many hosts has a heap
// that is large enough by itself.
const ballastSize = 32 << 20

// ballastPace is how often the size of the heap is looked at.
const ballastPace = 10 * time.Second

// ballast returns memory that nobody touches, so that it takes no room, for the garbage collector to count. It is nil if the
// operator has chosen a pace for it (GOGC) or a limit (GOMEMLIMIT).
func ballast() []byte {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/gomemlimit:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 || s[1].Value.Kind() != metrics.KindUint64 {
		return nil
	}
	if s[0].Value.Uint64() != 100 || s[1].Value.Uint64() != math.MaxInt64 {
		return nil
	}
	return make([]byte, ballastSize)
}

// live returns how much of the heap was in use when garbage was collected last.
func live() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}

// keepPace has the garbage collector neither work all the time nor leave too much, until ctx is done. What the reading of
// everything at start has left behind, which may be several times what is in use, goes back to the system at once.
func (s *Server) keepPace(ctx context.Context) {
	weight := ballast()
	chosen := weight == nil
	defer func() { runtime.KeepAlive(weight) }()
	select {
	case <-ctx.Done():
		return
	case <-s.ready:
	}
	debug.FreeOSMemory()
	if chosen {
		return
	}
	tick := time.NewTicker(ballastPace)
	defer tick.Stop()
	for {
		switch own := int64(live()) - int64(len(weight)); {
		case weight != nil && own > ballastSize:
			weight = nil
		case weight == nil && own < ballastSize/2:
			weight = make([]byte, ballastSize)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
