//go:build linux

package world

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// Metric asks the proxy on n1 for a metric and returns the sum over its labels.
// That there is no such metric is an error.
func (w *World) Metric(ctx context.Context, name string) (float64, error) {
	_, body, err := fetch(ctx, w.N1.NS, "http://"+metricsAt.String()+"/metrics")
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	sum, found := 0.0, false
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &v); err != nil {
			return 0, fmt.Errorf("metric %q: %w", lines.Text(), err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("there is no metric %s", name)
	}
	return sum, nil
}

const (
	// quietLag is how long a program may take to be done with what was removed.
	quietLag = 15 * time.Second
	// quietLooks is how often in a row nothing must be left: of a change that can
	// be seen to be in force, the end may still be missing.
	quietLooks = 3
)

// awaitQuiet waits until the program is done with what was removed.
func (w *World) awaitQuiet(ctx context.Context, prog Program) error {
	if !prog.Drains {
		return nil
	}
	for range quietLooks {
		err := eventually(ctx, quietLag, func() error {
			left, err := w.Draining()
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("still there: %s", strings.Join(left, ", "))
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("wait for the end of drains: %w", err)
		}
		time.Sleep(30 * time.Millisecond)
	}
	return nil
}

// Draining lists the destinations of IPVS on n1 that take no new connections, as
// the kernel writes them. Those of UDP do not count: they leave with their
// endpoint, and nothing but their own flows notices them.
func (w *World) Draining() ([]string, error) {
	var text []byte
	err := w.N1.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/ip_vs")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the tables of IPVS: %w", err)
	}
	return parseDraining(string(text)), nil
}

// parseDraining reads /proc/net/ip_vs: a line for each server, and under it one
// for each destination, with the arrow, address, method, weight and the numbers
// of active and inactive connections.
func parseDraining(text string) []string {
	var out []string
	server := ""
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) < 3:
		case words[0] != "->":
			server = words[0] + " " + words[1]
		case words[3] == "0" && !strings.HasPrefix(server, "UDP "):
			out = append(out, server+" "+strings.Join(words, " "))
		}
	}
	return out
}
