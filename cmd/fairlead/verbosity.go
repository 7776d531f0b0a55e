package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
)

// debugVerbosity is where kube-proxy begins to log single syncs.
const debugVerbosity = 4

// levelOf is what --v=verbosity lets through.
func levelOf(verbosity int) slog.Level {
	if verbosity >= debugVerbosity {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// An adjustable logs what its inner handler does until it is told how much to log.
type adjustable struct {
	slog.Handler
	level *atomic.Pointer[slog.Level] // nil inside until then
}

func newAdjustable(h slog.Handler) adjustable {
	return adjustable{h, new(atomic.Pointer[slog.Level])}
}

// Enabled implements [slog.Handler].
func (a adjustable) Enabled(ctx context.Context, l slog.Level) bool {
	if min := a.level.Load(); min != nil {
		return l >= *min
	}
	return a.Handler.Enabled(ctx, l)
}

// WithAttrs implements [slog.Handler].
func (a adjustable) WithAttrs(attrs []slog.Attr) slog.Handler {
	return adjustable{a.Handler.WithAttrs(attrs), a.level}
}

// WithGroup implements [slog.Handler].
func (a adjustable) WithGroup(name string) slog.Handler {
	return adjustable{a.Handler.WithGroup(name), a.level}
}

// set has what --v=verbosity lets through logged from now on.
func (a adjustable) set(verbosity string) error {
	v, err := strconv.ParseUint(verbosity, 10, 31)
	if err != nil {
		return fmt.Errorf("the verbosity: %w", err)
	}
	level := levelOf(int(v))
	if h, ok := a.Handler.(interface{ setLevel(slog.Level) }); ok {
		h.setLevel(level) // it knows better what else is logged
		return nil
	}
	a.level.Store(&level)
	return nil
}
