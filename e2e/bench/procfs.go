//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// procMeter measures a proxy without a cgroup: its own CPU time and that of the
// children it has waited for, in the kernel's ticks of 10 ms.
type procMeter struct {
	pid atomic.Int64
}

// ticksPerSecond is USER_HZ, which is 100 on every architecture Go runs on.
const ticksPerSecond = 100

func (m *procMeter) joins() []string      { return nil }
func (m *procMeter) peak() (uint64, bool) { return 0, false }
func (m *procMeter) close() error         { return nil }

func (m *procMeter) cpu() (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.pid.Load()))
	if err != nil {
		return 0, err
	}
	return parseStatCPU(string(data))
}

// parseStatCPU adds utime, stime, cutime and cstime.
func parseStatCPU(stat string) (time.Duration, error) {
	// The command's name may contain anything, but ends with the last bracket.
	end := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[end+1:])
	const utime = 11 // proc(5) counts from 1 and has two fields before these
	if end < 0 || len(fields) < utime+4 {
		return 0, errors.New("cannot read /proc/PID/stat")
	}
	var ticks int64
	for _, f := range fields[utime : utime+4] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cannot read /proc/PID/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// pids are the proxy and its children, not theirs.
func (m *procMeter) pids() ([]int, error) {
	pid := int(m.pid.Load())
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	pids := []int{pid}
	for _, list := range lists {
		children, err := readPIDs(list)
		if err != nil {
			continue // the thread has ended
		}
		pids = append(pids, children...)
	}
	return pids, nil
}

// machine is the CPU time of the whole machine since boot.
type machine struct{ busy, total time.Duration }

// readMachine reads /proc/stat.
func readMachine() (machine, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machine{}, err
	}
	return parseMachine(string(data))
}

func parseMachine(stat string) (machine, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	const idle, iowait, guest = 4, 5, 9 // guest time is part of user time
	if len(fields) < guest || fields[0] != "cpu" {
		return machine{}, errors.New("cannot read /proc/stat")
	}
	var m machine
	for i, f := range fields[:guest] {
		if i == 0 {
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return machine{}, fmt.Errorf("cannot read /proc/stat: %w", err)
		}
		d := time.Duration(n) * time.Second / ticksPerSecond
		m.total += d
		if i != idle && i != iowait {
			m.busy += d
		}
	}
	return m, nil
}
