package sysctl_test

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// asUser takes the right to ignore file permissions from the rest of the test,
// as the kernel does to root for a parameter of mode 0444 in /proc/sys.
func asUser(t *testing.T) {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	// Capabilities belong to the thread: it must not serve other tests again.
	runtime.LockOSThread()
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		t.Fatal(err)
	}
	caps[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
	if err := unix.Capset(&hdr, &caps[0]); err != nil {
		t.Fatal(err)
	}
}
