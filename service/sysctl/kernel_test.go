package sysctl_test

import (
	"errors"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service/sysctl"
)

// TestApplyInNamespace asks a real kernel what the package comment claims.
func TestApplyInNamespace(t *testing.T) {
	const udpPath = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout"
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		t.Skip("needs the right to make a network namespace")
	} else if err != nil {
		t.Fatal(err)
	}
	size, err := sysctl.Read("/", maxPath)
	if err != nil {
		t.Skip("this kernel has no connection tracking: ", err)
	}
	n, err := strconv.Atoi(size)
	if err != nil {
		t.Fatal(err)
	}
	skipped, err := sysctl.Apply("/", []sysctl.Setting{
		{Path: maxPath, Want: strconv.Itoa(n + 1), Machine: true},
		{Path: udpPath, Want: "77"},
	})
	if err != nil || len(skipped) != 1 {
		t.Errorf("Apply = %v, %v, want the size of the table skipped and no error", skipped, err)
	}
	if got, err := sysctl.Read("/", udpPath); got != "77" || err != nil {
		t.Errorf("%s is %s, %v, want 77", udpPath, got, err)
	}
	if got, err := sysctl.Read("/", maxPath); got != size || err != nil {
		t.Errorf("%s is %s, %v, want %s", maxPath, got, err, size)
	}
}
