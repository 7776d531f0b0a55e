//go:build linux

package main

import (
	"strings"
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := budget{begun: begun, limit: 20 * time.Minute}
	at := func(d time.Duration) time.Time { return begun.Add(d) }
	if !b.fits(time.Hour, at(0)) {
		t.Error("there was no time for what comes first")
	}
	b.end(10*time.Minute, 15*time.Minute) // slower than planned, by half
	if got, want := b.expect(2*time.Minute), 3*time.Minute; got != want {
		t.Errorf("expects %v, want %v", got, want)
	}
	if !b.fits(3*time.Minute, at(15*time.Minute)) || b.fits(4*time.Minute, at(15*time.Minute)) {
		t.Error("what fits into five minutes is wrong")
	}
	if b.limit = 0; !b.fits(time.Hour, at(time.Hour)) {
		t.Error("there was no time without a limit")
	}
}

// TestWholeRunFits: the default run, as planned, is within its time.
func TestWholeRunFits(t *testing.T) {
	o, err := parseFlags(strings.Fields("-mode suite"))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{options: o, subjects: []subject{{name: kubeProxyName}, {name: fairleadName}}}
	total := time.Duration(0)
	for _, w := range b.worlds() {
		planned := w.planned(o, b.entrants())
		t.Logf("%v: %v", w, planned)
		total += planned
	}
	if total > o.limitTime() {
		t.Errorf("planned are %v, more than %v", total, o.limitTime())
	}
}
