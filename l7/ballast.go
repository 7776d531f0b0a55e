package l7

import (
	"math"
	"runtime/metrics"
)

// ballastSize is how much garbage may gather beyond what is in use. A proxy of few hosts has a heap of a few megabytes, and
// would collect garbage, whose cost is that of the goroutines' stacks, many times a second.
const ballastSize = 32 << 20

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
