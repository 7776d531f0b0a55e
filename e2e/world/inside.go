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

// quietLag is how long a program may take to be done with what was removed.
const quietLag = 15 * time.Second

// awaitQuiet waits until a program that drains is done with what was removed.
func (w *World) awaitQuiet(ctx context.Context, prog Program, m *Marker) error {
	if !prog.Mode.drains() {
		return nil
	}
	err := eventually(ctx, quietLag, func() error {
		left, err := w.Draining(m)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("still there: %s", strings.Join(left, ", "))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the end of drains: %w", err)
	}
	return nil
}

// Draining lists what IPVS on n1 has, as the kernel writes it, that was removed:
// destinations that take no new connections, and servers of earlier markers, who
// show, by having gone, that a change that has begun to be in force has come to
// its end. Destinations of UDP do not count: they leave with their endpoint, and
// nothing but their own flows notices them.
func (w *World) Draining(m *Marker) ([]string, error) {
	var text []byte
	err := w.N1.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/ip_vs")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the tables of IPVS: %w", err)
	}
	return parseDraining(string(text), m.port), nil
}

// parseDraining reads /proc/net/ip_vs: a line for each server, and under it one
// for each destination, with the arrow, address, method, weight and the numbers
// of active and inactive connections. The marker's server is at a port.
func parseDraining(text string, port uint16) []string {
	var out []string
	number := fmt.Sprintf(":%04X", port)
	server := ""
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) < 3:
		case words[0] != "->":
			server = words[0] + " " + words[1]
			if isMarker(words[1]) && !strings.HasSuffix(words[1], number) {
				out = append(out, server)
			}
		case words[3] == "0" && !strings.HasPrefix(server, "UDP "):
			out = append(out, server+" "+strings.Join(words, " "))
		}
	}
	return out
}

// isMarker reports whether an address, as /proc/net/ip_vs has it, is a marker's.
func isMarker(address string) bool {
	v4, v6 := markerIP().V4.As4(), markerIP().V6.StringExpanded()
	return strings.HasPrefix(address, fmt.Sprintf("%X:", v4[:])) || strings.HasPrefix(address, "["+v6+"]:")
}
