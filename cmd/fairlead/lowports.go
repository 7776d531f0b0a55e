package main

import (
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// lowPort opens a listener with the capability to have a port below 1024, if the
// process has that in reserve: permitted by the file it was started from, but not
// effective. A file that makes it effective (setcap …+ep) could not be run at all
// where the capability is not to be had, as in a container that drops all. The
// thread has it no longer than it takes to open.
func lowPort(open func() (net.Listener, error)) (net.Listener, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // this thread
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return open() // which says what it lacks, if anything
	}
	const bit = 1 << unix.CAP_NET_BIND_SERVICE
	if have[0].Effective&bit != 0 || have[0].Permitted&bit == 0 {
		return open()
	}
	more := have
	more[0].Effective |= bit
	if err := unix.Capset(&header, &more[0]); err != nil {
		return open()
	}
	defer unix.Capset(&header, &have[0]) //nolint:errcheck // less is always allowed
	return open()
}
