//go:build linux

package lab

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// stayOn has this thread, and the processes it starts, stay on the n-th of the CPUs
// it may use, counted from 1 and around; 0 leaves it alone. The goroutine has to be
// locked to its thread until restore was called.
//
// User-mode Linux is one CPU, but many processes of the host that take turns at
// every system call of the guest: each waits while it traces another. On one CPU a
// turn is a context switch. On two it is an interrupt for a CPU that has gone to
// sleep, and takes three times as long (seen: 90,000 and 290,000 turns a second, of
// two guests in a virtual machine of two CPUs).
func stayOn(n int) (restore func(), err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, fmt.Errorf("which CPUs there are: %w", err)
	}
	if n == 0 {
		return func() {}, nil
	}
	var one unix.CPUSet
	skip := (n - 1) % all.Count()
	for cpu := 0; ; cpu++ {
		if !all.IsSet(cpu) {
			continue
		}
		if skip == 0 {
			one.Set(cpu)
			break
		}
		skip--
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, fmt.Errorf("stay on one CPU: %w", err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &all) }, nil // what was allowed still is
}
