//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup measures a proxy by putting it into a control group: below this
// process's own in the unified hierarchy if that accounts for memory, otherwise
// below its own in each of the old hierarchies.
type cgroup struct {
	dirs   []string // all that were made
	cpuDir string
	memDir string // empty: nothing counts memory
	v2     bool
}

// cgroupPrefix starts the names of our groups; the number of our process follows.
const cgroupPrefix = "fairlead-bench-"

// hierarchies finds where cgroups may be made: this process's own directory per
// controller, and under the name "" that of the unified hierarchy.
func hierarchies(mountinfo, cgroups string) map[string]string {
	mounts := map[string]string{} // controller to mount point
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			mounts[""] = fields[4]
		case "cgroup":
			for c := range strings.SplitSeq(kind[2], ",") {
				mounts[c] = fields[4]
			}
		}
	}
	own := map[string]string{}
	for line := range strings.Lines(cgroups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			if mount, ok := mounts[c]; ok {
				own[c] = filepath.Join(mount, parts[2])
			}
		}
	}
	return own
}

func ownHierarchies() (map[string]string, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	cgroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return hierarchies(string(mountinfo), string(cgroups)), nil
}

func newCgroup(name string) (*cgroup, error) {
	own, err := ownHierarchies()
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	for _, dir := range own {
		sweepCgroups(dir)
	}
	c, err := makeCgroup(own, fmt.Sprintf("%s%d-%s", cgroupPrefix, os.Getpid(), name))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a cgroup: %w", err), c.close())
	}
	return c, nil
}

// makeCgroup makes the directories. On error, close removes what there is.
func makeCgroup(own map[string]string, name string) (*cgroup, error) {
	c := &cgroup{}
	if acct, ok := own["cpuacct"]; ok {
		c.cpuDir = filepath.Join(acct, name)
		if mem, ok := own["memory"]; ok {
			c.memDir = filepath.Join(mem, name)
		}
	} else if unified, ok := own[""]; ok {
		c.v2, c.cpuDir = true, filepath.Join(unified, name)
		// A group that holds processes may not give controllers to its children,
		// except the root; so this helps only in some places, and is no loss.
		_ = os.WriteFile(filepath.Join(unified, "cgroup.subtree_control"), []byte("+memory"), 0)
	} else {
		return c, errors.New("no hierarchy counts CPU time")
	}
	for _, dir := range []string{c.cpuDir, c.memDir} {
		if dir == "" {
			continue
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return c, err
		}
		c.dirs = append(c.dirs, dir)
	}
	if c.v2 {
		if _, err := os.Stat(filepath.Join(c.cpuDir, "memory.peak")); err == nil {
			c.memDir = c.cpuDir
		}
	}
	return c, nil
}

// sweepCgroups removes the groups of processes that died before they could.
func sweepCgroups(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // then nothing can be made there either
	}
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), cgroupPrefix)
		number, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(number)
		if ours && err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = os.Remove(filepath.Join(dir, e.Name())) // somebody's process may linger in it
		}
	}
}

func (c *cgroup) joins() []string {
	files := make([]string, 0, len(c.dirs))
	for _, dir := range c.dirs {
		files = append(files, filepath.Join(dir, "cgroup.procs"))
	}
	return files
}

func (c *cgroup) pids() ([]int, error) {
	return readPIDs(filepath.Join(c.cpuDir, "cgroup.procs"))
}

func (c *cgroup) cpu() (time.Duration, error) {
	if !c.v2 {
		ns, err := readNumber(filepath.Join(c.cpuDir, "cpuacct.usage"))
		return time.Duration(ns), err
	}
	f, err := os.Open(filepath.Join(c.cpuDir, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "usage_usec "); ok {
			us, err := strconv.ParseInt(value, 10, 64)
			return time.Duration(us) * time.Microsecond, err
		}
	}
	return 0, errors.New("cpu.stat has no usage_usec")
}

func (c *cgroup) peak() (uint64, bool) {
	if c.memDir == "" {
		return 0, false
	}
	file := "memory.max_usage_in_bytes"
	if c.v2 {
		file = "memory.peak"
	}
	n, err := readNumber(filepath.Join(c.memDir, file))
	return n, err == nil
}

func (c *cgroup) close() error {
	var errs []error
	for _, dir := range c.dirs {
		if err := removeDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	c.dirs = nil
	return errors.Join(errs...)
}
