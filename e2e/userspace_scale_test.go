//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// sockets lists the listening TCP sockets and the unconnected UDP sockets of n1.
func (b *bed) sockets(t *testing.T) string {
	t.Helper()
	lines := sortLines(b.run(t, "ss -Hlntu"))
	var out []string
	for _, l := range lines {
		words := strings.Fields(l) // tcp LISTEN 0 4096 127.0.0.1:10265 0.0.0.0:*
		out = append(out, words[0]+" "+words[4])
	}
	return strings.Join(out, "\n")
}

// TestUserspaceScale has 10,000 Services where there was one: fairlead listens at the
// same sockets, and the rules are the same; only sets grow.
func TestUserspaceScale(t *testing.T) { eachUserspace(t, scale) }

func scale(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	b.begin(t, web(1, 2, 3))
	rules := func() string {
		var out []string
		for line := range strings.Lines(b.save(t).ours) {
			if strings.HasPrefix(line, "\t-A ") || strings.HasPrefix(line, "*") {
				out = append(out, strings.TrimSpace(line))
			}
		}
		return strings.Join(out, "\n")
	}
	callAll(t, 1, b.callers(t, web(1)))
	few, fewRules := b.sockets(t), rules()
	n := strings.Count(few, "\n") + 1
	if n < 12 || !strings.Contains(fewRules, "TPROXY") {
		t.Errorf("there is nothing to compare: %d sockets\n%s\n%s", n, few, fewRules)
	}
	const services = 10_000
	many := []fixture{web(1, 2, 3)}
	for i := range services - 1 {
		many = append(many, fixture{
			name: fmt.Sprintf("many-%d", i), ip: clusterIP(0x1000 + i), port: 80, target: 8080,
			nodePort: uint16(30100 + i), endpoints: podsOf(2, 3),
		})
	}
	start := time.Now()
	b.apply(t, many...)
	elements := b.awaitElements(t, 2*services)
	t.Logf("%d Services are in force after %v", services, time.Since(start).Round(time.Millisecond))
	var wg sync.WaitGroup
	for _, f := range []fixture{many[0], many[1], many[services/2], many[services-1]} {
		wg.Go(func() {
			for i, r := range callAll(t, 1, b.callers(t, f)) {
				if !b.isPod(r) {
					t.Errorf("%s, call %d: %v", f.name, i, r)
				}
			}
		})
	}
	wg.Wait()
	if got := b.sockets(t); got != few {
		t.Errorf("the sockets of %d Services:\n%s\nof one:\n%s", services, got, few)
	}
	if got := rules(); got != fewRules {
		t.Errorf("the rules of %d Services:\n%s\nof one:\n%s", services, got, fewRules)
	}
	t.Logf("%d sockets and %d rules, whatever the Services; %d elements in the smaller set", n, strings.Count(fewRules, "-A "), elements)
}

// awaitElements waits until the sets of frontends hold at least so many, and returns
// how many the smaller has: the first of so many frontends answers before the last.
func (b *bed) awaitElements(t *testing.T, least int) int {
	t.Helper()
	n := 0
	within(t, time.Minute, func() error {
		n = min(strings.Count(b.run(t, "ipset save FLU4-VIP"), "\nadd "), strings.Count(b.run(t, "ipset save FLU6-VIP"), "\nadd "))
		if n < least {
			return fmt.Errorf("%d frontends are in the sets, want %d", n, least)
		}
		return nil
	})
	return n
}
