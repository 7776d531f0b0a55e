package xt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lockFile is what the legacy tools take a lock on, all families alike.
func lockFile() string {
	if path := os.Getenv("XTABLES_LOCKFILE"); path != "" {
		return path
	}
	return "/run/xtables.lock"
}

// waitForLock waits until the xtables lock looks free, so that the time can be
// measured and the holder named, which the tools do not do well. It does not
// keep the lock: the tool is about to take it, and gets what is left of
// LockWait, in whole seconds, for the case that somebody is faster.
func (e *Exec) waitForLock(ctx context.Context) (left string, err error) {
	seconds := func(d time.Duration) string { return strconv.Itoa(max(1, int(d.Round(time.Second)/time.Second))) }
	if !e.cfg.Legacy {
		return seconds(e.cfg.LockWait), nil
	}
	path := lockFile()
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return seconds(e.cfg.LockWait), nil // the tool will say so better
	}
	defer file.Close()
	start := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		waited := time.Since(start)
		if err == nil {
			if pause > time.Millisecond && e.cfg.OnWait != nil {
				e.cfg.OnWait(waited)
			}
			return seconds(e.cfg.LockWait - waited), nil // closing the file lets go of it
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return "", fmt.Errorf("lock %s: %w", path, err)
		}
		if waited >= e.cfg.LockWait {
			if e.cfg.OnWait != nil {
				e.cfg.OnWait(waited)
			}
			return "", fmt.Errorf("process %d waited %v for the xtables lock %s, held by %s",
				os.Getpid(), waited.Round(time.Millisecond), path, holder(file))
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for the xtables lock %s, held by %s: %w", path, holder(file), ctx.Err())
		case <-time.After(pause):
		}
	}
}

// holder names the process that has file locked, as well as /proc can tell.
func holder(file *os.File) string {
	const unknown = "an unknown process"
	info, err := file.Stat()
	if err != nil {
		return unknown
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return unknown
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknown
	}
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], ":"+strconv.FormatUint(stat.Ino, 10)) {
			continue
		}
		comm, err := os.ReadFile("/proc/" + f[4] + "/comm")
		if err != nil {
			return "process " + f[4]
		}
		return fmt.Sprintf("process %s (%s)", f[4], strings.TrimSpace(string(comm)))
	}
	return unknown
}
