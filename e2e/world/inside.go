//go:build linux

package world

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Metric asks the proxy on n1 for a metric and returns the sum over its labels.
// That there is no such metric is an error.
func (w *World) Metric(ctx context.Context, name string) (float64, error) {
	_, body, err := fetch(ctx, w.N1.NS, "http://"+metricsAt.String()+"/metrics", quietLag)
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
	if !prog.Mode.IPVS() {
		return nil
	}
	err := eventually(ctx, quietLag, func() error {
		left, err := w.Draining(ctx, m)
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

// Draining lists what IPVS on n1 has, as ipvsadm writes it, that was removed:
// destinations that take no new connections, and servers of earlier markers, who
// show, by having gone, that a change that has begun to be in force has come to
// its end. Destinations of UDP do not count: they leave with their endpoint, and
// nothing but their own flows notices them.
func (w *World) Draining(ctx context.Context, m *Marker) ([]string, error) {
	// Not /proc/net/ip_vs: beside other namespaces it leaves servers out.
	text, err := w.N1.Output(ctx, "ipvsadm", "-Sn")
	if err != nil {
		return nil, fmt.Errorf("read the tables of IPVS: %w", err)
	}
	return parseDraining(text, m.port), nil
}

// parseDraining reads what ipvsadm saves, with the marker's server at a port.
func parseDraining(text string, port uint16) []string {
	var out []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line) // -A -t 10.96.0.1:80 -s rr, or -a with -r, -m and -w
		if len(words) < 3 || words[1] == "-u" {
			continue
		}
		at, err := netip.ParseAddrPort(words[2])
		old := err == nil && at.Addr() == markerIP().Like(at.Addr()) && at.Port() != port
		if words[0] == "-A" && old || words[0] == "-a" && strings.HasSuffix(strings.TrimSpace(line), " -w 0") {
			out = append(out, strings.Join(words[1:], " "))
		}
	}
	return out
}
