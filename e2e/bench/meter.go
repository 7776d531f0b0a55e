//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// meter tells what a proxy costs, together with the programs it runs.
type meter interface {
	// joins are the files that a process writes its number to in order to be
	// measured, before it becomes the proxy. There may be none.
	joins() []string
	// cpu is the time used so far, user and system, of all processes that ever
	// belonged to the meter.
	cpu() (time.Duration, error)
	// peak is the most memory ever charged to all of them together, in bytes, with
	// what the kernel holds on their behalf. Not every meter can tell.
	peak() (bytes uint64, ok bool)
	// pids are the processes that belong to it now.
	pids() ([]int, error)
	// close removes it. The processes must have ended.
	close() error
}

// newMeter makes a cgroup, or, where that is impossible, a meter that adds up
// what /proc says. The pid is needed by the latter only, and may be set later.
func newMeter(name string) (m meter, why error) {
	c, err := newCgroup(name)
	if err == nil {
		return c, nil
	}
	return &procMeter{}, err
}

// memory is what one process has mapped, in bytes.
type memory struct{ resident, peak uint64 }

// readMemory reads /proc/PID/status.
func readMemory(pid int) (memory, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, err
	}
	return parseMemory(string(data))
}

func parseMemory(status string) (memory, error) {
	var m memory
	found := 0
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		var into *uint64
		switch name {
		case "VmRSS":
			into = &m.resident
		case "VmHWM":
			into = &m.peak
		default:
			continue
		}
		fields := strings.Fields(value)
		if len(fields) != 2 || fields[1] != "kB" {
			return m, fmt.Errorf("cannot read %q", line)
		}
		kib, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return m, fmt.Errorf("cannot read %q: %w", line, err)
		}
		*into = kib << 10
		found++
	}
	if found != 2 {
		return m, errors.New("the process has no memory left")
	}
	return m, nil
}

// childWatch looks for the largest child of a proxy. Children that live for less
// than its period may escape it; those are the small ones.
type childWatch struct {
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	largest uint64
}

const childPeriod = 20 * time.Millisecond

func watchChildren(m meter, parent int) *childWatch {
	w := &childWatch{stop: make(chan struct{})}
	w.done.Go(func() { w.run(m, parent) })
	return w
}

func (w *childWatch) run(m meter, parent int) {
	tick := time.NewTicker(childPeriod)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		pids, err := m.pids()
		if err != nil {
			continue // the proxy is ending
		}
		program, err := os.Readlink(executable(parent))
		if err != nil {
			continue
		}
		for _, pid := range pids {
			// Between fork and exec a child is still its parent, memory and all. What
			// cannot be read is gone: it has had its turn before, or never will.
			if name, err := os.Readlink(executable(pid)); err != nil || name == program {
				continue
			}
			if mem, err := readMemory(pid); err == nil {
				w.mu.Lock()
				w.largest = max(w.largest, mem.peak)
				w.mu.Unlock()
			}
		}
	}
}

func executable(pid int) string { return fmt.Sprintf("/proc/%d/exe", pid) }

// peak is the most that any one child has had resident.
func (w *childWatch) peak() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.largest
}

func (w *childWatch) close() {
	close(w.stop)
	w.done.Wait()
}

// readNumber reads a file that holds one number.
func readNumber(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

func readPIDs(path string) ([]int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// removeDir removes a cgroup. The kernel needs a moment after the last process
// has been waited for.
func removeDir(dir string) error {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", filepath.Base(dir), err)
		}
	}
}
