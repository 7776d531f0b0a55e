package main

import (
	"context"
	"io"
	"log/slog"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"
)

// newLogger returns a logger to w with all flags obeyed, of which the form has been checked.
func newLogger(w io.Writer, f *logFlags, verbosity int) *slog.Logger {
	if f.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: levelOf(verbosity), ReplaceAttr: asComponents}))
	}
	files, _ := parseVModule(f.VModule)
	files = slices.DeleteFunc(files, func(l fileLevel) bool { return levelOf(l.Verbosity) >= levelOf(verbosity) })
	if len(files) == 0 {
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: levelOf(verbosity)}))
	}
	level := new(slog.LevelVar)
	level.Set(levelOf(verbosity))
	return slog.New(fileHandler{
		Handler: slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}),
		level:   level, files: files,
	})
}

// asComponents names time and level as components of Kubernetes do in their JSON: milliseconds in ts, and v where it
// is no warning and no error.
func asComponents(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch v := a.Value.Any().(type) {
	case time.Time:
		if a.Key == slog.TimeKey {
			return slog.Float64("ts", float64(v.UnixMicro())/1000)
		}
	case slog.Level:
		switch {
		case a.Key != slog.LevelKey:
		case v < slog.LevelInfo:
			return slog.Int("v", debugVerbosity)
		case v < slog.LevelWarn:
			return slog.Int("v", 0)
		default:
			return slog.String(slog.LevelKey, strings.ToLower(v.String()))
		}
	}
	return a
}

// A fileHandler logs more of some files than of others.
type fileHandler struct {
	slog.Handler                // takes everything
	level        *slog.LevelVar // of the rest
	files        []fileLevel    // that log more
}

// setLevel changes how much the other files log.
func (h fileHandler) setLevel(l slog.Level) { h.level.Set(l) }

// Enabled implements [slog.Handler]. What is from where is not known yet.
func (h fileHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements [slog.Handler].
func (h fileHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < h.level.Level() && !h.named(r) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// named reports whether r is from a file that may log it.
func (h fileHandler) named(r slog.Record) bool {
	frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
	file := strings.TrimSuffix(path.Base(frame.File), ".go")
	return slices.ContainsFunc(h.files, func(l fileLevel) bool {
		ok, err := path.Match(l.Pattern, file)
		return err == nil && ok && r.Level >= levelOf(l.Verbosity)
	})
}

// WithAttrs implements [slog.Handler].
func (h fileHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.Handler = h.Handler.WithAttrs(attrs)
	return h
}

// WithGroup implements [slog.Handler].
func (h fileHandler) WithGroup(name string) slog.Handler {
	h.Handler = h.Handler.WithGroup(name)
	return h
}
