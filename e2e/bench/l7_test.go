//go:build linux

package main

import (
	"flag"
	"strings"
	"testing"
	"time"
)

func TestParseWrk(t *testing.T) {
	small := l7Scenarios()[0]
	got, err := parseWrk("Running 3s test\nRESULT 1000 2000000 3 0 400000 1500\n", small)
	want := l7Result{requests: 1000, failed: 3, bytes: 400000, elapsed: 2 * time.Second, p99: 1500 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for name, text := range map[string]string{
		"nothing":        "Running 3s test\n",
		"no answers":     "RESULT 0 2000000 64 0 0 0\n",
		"status 502":     "RESULT 1000 2000000 0 7 400000 1500\n",
		"bodies missing": "RESULT 1000 2000000 0 0 200000 1500\n",
		"cut":            "RESULT 1000 2000\n",
	} {
		if r, err := parseWrk(text, small); err == nil {
			t.Errorf("%s: got %+v and no error", name, r)
		}
	}
}

func TestL7Flags(t *testing.T) {
	for args, want := range map[string]string{
		"-mode l7":                   "",
		"-mode l7 -quick":            "",
		"-mode l7 -only small,large": "",
		"-mode l7 -only smal":        "-only",
		"-mode l7 -routes 0":         "-routes",
		"-mode l7 -load 100ms":       "-load",
		"-mode l7 -kernel qemu":      "-kernel",
	} {
		_, err := parseFlags(strings.Fields(args))
		if err == flag.ErrHelp {
			t.Fatal("help")
		}
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error about %q", args, err, want)
		}
	}
}

// TestL7Report has a table with a ratio in it.
func TestL7Report(t *testing.T) {
	c := &l7Contest{options: options{l7Options: l7Options{only: "small"}}, rounds: 1, rivals: []*l7Rival{{name: fairleadL7Name}, {name: nginxName}}}
	c.samples = []sample{
		{Rival: fairleadL7Name, Scenario: "small", Proxy: 30e-6, Rate: 1000, Slowest: 0.002},
		{Rival: nginxName, Scenario: "small", Proxy: 15e-6, Rate: 2000, Slowest: 0.001, Failed: 2},
	}
	var out strings.Builder
	if err := writeL7(&out, c, environment{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| CPU of the proxy, µs per request | 30.0 | 15.0 | 2.00 | 2.00 |", "| requests/s | 1000 | 2000 | 0.500 | 0.500 |", "2 connections failed",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}
