package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestVerbosityChangesLive(t *testing.T) {
	var out bytes.Buffer
	a := newAdjustable(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	log := slog.New(a).With("of", "us").WithGroup("g")
	log.Debug("first")
	if err := a.set("4"); err != nil {
		t.Fatal(err)
	}
	log.Debug("second", "k", "v")
	if err := a.set("3"); err != nil {
		t.Fatal(err)
	}
	log.Debug("third")
	log.Info("fourth")
	for _, bad := range []string{"", "x", "-1", "4.5", "99999999999"} {
		if err := a.set(bad); err == nil {
			t.Errorf("%q is taken for a verbosity", bad)
		}
	}
	log.Debug("fifth")
	for text, want := range map[string]bool{
		"first": false, "msg=second of=us g.k=v": true, "third": false, "fourth": true, "fifth": false,
	} {
		if got := strings.Contains(out.String(), text); got != want {
			t.Errorf("%q was logged: %v, want %v, in\n%s", text, got, want, &out)
		}
	}
}
