package watch

import (
	"context"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// QuietContext returns a context in which client-go logs through log, at debug
// level whatever it believes: reflectors log every attempt, and here only the
// change from good to bad and back is news.
func QuietContext(ctx context.Context, log *slog.Logger) context.Context {
	return klog.NewContext(ctx, logr.FromSlogHandler(quiet{log.Handler()}))
}

// Quiet returns a logger that logs everything to log, at debug level.
func Quiet(log *slog.Logger) *slog.Logger { return slog.New(quiet{log.Handler()}) }

// A quiet is a slog.Handler that turns everything into debug messages.
type quiet struct{ slog.Handler }

// Enabled reports whether debug messages are wanted, and keeps out the chatter
// that client-go itself puts below its level 2.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= -2 && q.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle passes r on at debug level. Errors come here unasked.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if !q.Handler.Enabled(ctx, slog.LevelDebug) {
		return nil
	}
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

// WithAttrs keeps the result quiet.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup keeps the result quiet.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
