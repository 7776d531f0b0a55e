//go:build linux

package world

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
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
	// quietLooks is how often in a row nothing must be left: a sync whose effects
	// can be seen already may not have been accounted for.
	quietLooks = 3
)

// awaitQuiet waits until the program is done with what was removed.
func (w *World) awaitQuiet(ctx context.Context, prog Program) error {
	if prog.Busy == "" {
		return nil
	}
	for range quietLooks {
		err := eventually(ctx, quietLag, func() error {
			n, err := w.Metric(ctx, prog.Busy)
			if err == nil && n != 0 {
				err = fmt.Errorf("%s is %v, want 0", prog.Busy, n)
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
