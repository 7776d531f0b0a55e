package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestLoggerJSON reads a line as a collector of logs does.
func TestLoggerJSON(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(&out, &logFlags{Format: "json"}, 4)
	before := time.Now()
	log.Info("something", "at", time.Unix(0, 0).UTC(), "n", 3)
	log.Debug("little")
	log.Error("much", "err", errors.New("no"))
	var got []map[string]any
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		got = append(got, m)
	}
	if len(got) != 3 {
		t.Fatalf("%d lines, want 3:\n%s", len(got), out.String())
	}
	ts, _ := got[0]["ts"].(float64)
	if at := time.UnixMicro(int64(ts * 1000)); at.Before(before.Add(-time.Millisecond)) || at.After(time.Now()) {
		t.Errorf("ts %v is %v, which is not now", got[0]["ts"], at)
	}
	if got[0]["v"] != 0.0 || got[0]["msg"] != "something" || got[0]["at"] != "1970-01-01T00:00:00Z" {
		t.Errorf("the first line is %v", got[0])
	}
	if got[1]["v"] != 4.0 {
		t.Errorf("the second line is %v, want v 4", got[1])
	}
	if _, has := got[2]["v"]; has || got[2]["level"] != "error" || got[2]["err"] != "no" {
		t.Errorf("the third line is %v", got[2])
	}
}

// TestLoggerAdjusted changes how much is logged, beside a file that logs more.
func TestLoggerAdjusted(t *testing.T) {
	for _, c := range []struct{ vmodule, set, want string }{
		{"", "4", "debug info"},
		{"run=4", "4", "debug info"},
		{"run=4", "0", "info"},
		{"log_test=4", "0", "debug info"},
	} {
		var out bytes.Buffer
		a := newAdjustable(newLogger(&out, &logFlags{Format: "text", VModule: c.vmodule}, 0).Handler())
		if err := a.set(c.set); err != nil {
			t.Fatal(err)
		}
		log := slog.New(a).With("a", 1)
		log.Debug("debug")
		log.Info("info")
		if got := messages(out.String()); got != c.want {
			t.Errorf("--vmodule=%s, and the level set to %s: logged %q, want %q", c.vmodule, c.set, got, c.want)
		}
	}
}

// messages returns what was logged.
func messages(log string) string {
	var out []string
	for line := range strings.Lines(log) {
		_, msg, _ := strings.Cut(line, "msg=")
		out = append(out, strings.Fields(msg)[0])
	}
	return strings.Join(out, " ")
}

// TestLoggerLevels is about how much is logged, by all files and by this one.
func TestLoggerLevels(t *testing.T) {
	for _, c := range []struct {
		vmodule   string
		verbosity int
		want      string
	}{
		{"", 0, "info"},
		{"", 3, "info"},
		{"", 4, "debug info"},
		{"log_test=4", 0, "debug info"},
		{"log_*=9", 0, "debug info"},
		{"log_test=3", 0, "info"},
		{"run=4", 0, "info"},
		{"run=4,log_test=4", 0, "debug info"},
		{"log_test=0", 4, "debug info"}, // a file logs no less than others
	} {
		var out bytes.Buffer
		log := newLogger(&out, &logFlags{Format: "text", VModule: c.vmodule}, c.verbosity)
		log.Debug("debug")
		log.With("a", 1).WithGroup("g").Info("info", "b", 2)
		if got := messages(out.String()); got != c.want {
			t.Errorf("--vmodule=%s --v=%d: logged %q, want %s", c.vmodule, c.verbosity, got, c.want)
		}
		if !strings.Contains(out.String(), "a=1 g.b=2") {
			t.Errorf("--vmodule=%s: attributes are lost: %s", c.vmodule, out.String())
		}
	}
}
