//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// runDir is where ip-netns(8) looks for named namespaces.
const runDir = "/run/netns"

// prepareRunDir makes runDir a shared mount point, exactly as "ip netns add"
// would, so that a later "ip netns add" does not bind the folder over itself and
// thereby hide our mounts. The lock is the one ip takes for this.
func prepareRunDir() error {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(runDir)
	if err != nil {
		return err
	}
	defer dir.Close() // unlocks
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", runDir, err)
	}
	err = unix.Mount("", runDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: not a mount point yet
		return err
	}
	if err := unix.Mount(runDir, runDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", runDir, err)
	}
	return unix.Mount("", runDir, "none", unix.MS_SHARED|unix.MS_REC, "")
}

// removeName unmounts and removes one named namespace. A missing one is fine.
func removeName(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// namePrefix is the common start of the names of one cluster: the process, then
// the cluster's number within it.
func namePrefix(prefix string, pid, number int) string {
	return fmt.Sprintf("%s-%d-%d-", prefix, pid, number)
}

// sweep removes namespaces with our prefix whose process is gone. A process that
// died before its namespaces were removed is the usual reason; its children have
// died with it.
func sweep(prefix string) error {
	entries, err := os.ReadDir(runDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		pid, ok := ownerOf(prefix, e.Name())
		if !ok || alive(pid) {
			continue
		}
		errs = append(errs, removeName(filepath.Join(runDir, e.Name())))
	}
	return errors.Join(errs...)
}

// ownerOf reads the process id out of a name made with namePrefix.
func ownerOf(prefix, name string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix+"-")
	if !ok {
		return 0, false
	}
	fields := strings.SplitN(rest, "-", 3)
	if len(fields) != 3 {
		return 0, false
	}
	if _, err := strconv.Atoi(fields[1]); err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(fields[0])
	return pid, err == nil && pid > 0
}

func alive(pid int) bool {
	return !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}
