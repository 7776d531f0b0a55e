//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// growth is what must not grow, at one moment.
type growth struct {
	at                                time.Duration // since the load began
	goroutines, descriptors, resident float64
	connections, sessions             float64 // at present, for the reader
}

// limited is a figure that must not grow by more than a fifth and a constant, which
// covers what is there only now and then.
type limited struct {
	title string
	of    func(growth) float64
	scale float64
	slack float64
}

func limits() []limited {
	return []limited{
		{"goroutines", func(g growth) float64 { return g.goroutines }, 1, 10},
		{"open descriptors", func(g growth) float64 { return g.descriptors }, 1, 50},
		{"RSS, MB", func(g growth) float64 { return g.resident }, mega, 8 / mega},
		{"TCP connections", func(g growth) float64 { return g.connections }, 1, 50},
		{"UDP sessions", func(g growth) float64 { return g.sessions }, 1, 50},
	}
}

const mayGrow = 1.2

// at returns the median of the samples around a time: the last ones before it.
func (l limited) at(samples []growth, when time.Duration) float64 {
	var list []float64
	for _, g := range samples {
		if g.at <= when {
			list = append(list, l.of(g))
		}
	}
	return median(list[max(0, len(list)-soakWindow):])
}

// grew reports whether there is more at the end than there may be.
func (l limited) grew(before, end float64) bool { return !(end <= before*mayGrow+l.slack) }

// judge prints the tables and the verdict. The error is the verdict, if it is bad.
func (s *soak) judge(w io.Writer) error {
	var out strings.Builder
	total := s.options.soak
	times := []time.Duration{total / 10, total / 5, total / 2, total}
	fmt.Fprintf(&out, "Soak of %v: userspace mode, an endpoint leaves or comes back every %v.\n\n| |", total, soakChurn)
	for _, t := range times {
		fmt.Fprintf(&out, " after %v |", t.Round(time.Second))
	}
	fmt.Fprintf(&out, " end / after %v | without load |\n|---|%s\n", times[1].Round(time.Second), strings.Repeat("--:|", len(times)+2))
	last := s.samples[len(s.samples)-1]
	loaded := s.samples[:len(s.samples)-1]
	for _, l := range limits() {
		fmt.Fprintf(&out, "| %s |", l.title)
		var values []float64
		for _, t := range times {
			values = append(values, l.at(loaded, t))
			fmt.Fprintf(&out, " %s |", figure(values[len(values)-1]*l.scale))
		}
		before, end := values[1], values[len(values)-1]
		fmt.Fprintf(&out, " %s | %s |\n", figure(end/before), figure(l.of(last)*l.scale))
		if l.grew(before, end) {
			s.problems = append(s.problems, fmt.Sprintf("%s grew from %s to %s", l.title, figure(before*l.scale), figure(end*l.scale)))
		}
	}
	s.tellLoad(&out)
	var verdict error
	if len(s.problems) > 0 {
		verdict = errors.New("the soak has failed: " + strings.Join(s.problems, "; "))
	} else {
		out.WriteString("\nNothing grew, and nothing failed.\n")
	}
	_, err := io.WriteString(w, out.String())
	return errors.Join(verdict, err)
}

// tellLoad writes what the load was, and adds what failed to the problems.
func (s *soak) tellLoad(out *strings.Builder) {
	fmt.Fprintf(out, "\n| load | made | failed |\n|---|--:|--:|\n")
	fmt.Fprintf(out, "| short connections | %d | %d |\n", s.short.made.Load(), s.short.failed.Load())
	fmt.Fprintf(out, "| UDP exchanges, each a session (%d datagrams sent again) | %d | %d |\n",
		s.udp.again.Load(), s.udp.made.Load(), s.udp.failed.Load())
	fmt.Fprintf(out, "| long transfers, %s GB | %d | %d |\n",
		figure(float64(s.long.bytes.Load())*1e-9), s.long.ended.Load(), s.long.failed.Load())
	fmt.Fprintf(out, "| changes of endpoints | %d | |\n", s.changes)
	fmt.Fprintf(out, "\nThe proxy used %s %% of one CPU.\n", figure(100*s.used.Seconds()/s.options.soak.Seconds()))
	note := func(what string, failed int64, some *someErrors) {
		if failed > 0 {
			s.problems = append(s.problems, fmt.Sprintf("%d %s failed (%s)", failed, what, strings.Join(some.list, "; ")))
		}
	}
	note("short connections", s.short.failed.Load(), &s.short.some)
	note("UDP exchanges", s.udp.failed.Load(), &s.udp.some)
	note("long transfers", s.long.failed.Load(), &s.long.some)
	if s.short.made.Load() == 0 || s.udp.made.Load() == 0 || s.long.bytes.Load() == 0 || s.changes == 0 {
		s.problems = append(s.problems, "a part of the load was not made")
	}
}
