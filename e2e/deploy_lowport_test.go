//go:build linux

package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDeployLowPort starts L7 from a file with the capability that the image gives it,
// as a user who is not root: with ports 80 and 443 where the container may have it, and
// without where it may not, which must not keep the program from starting.
func TestDeployLowPort(t *testing.T) {
	t.Parallel()
	built := requireWorld(t)
	dir := readable(t, map[string]string{"fairlead": built})
	program := filepath.Join(dir, "fairlead")
	if err := unix.Setxattr(program, "security.capability", permitted(unix.CAP_NET_BIND_SERVICE), 0); err != nil {
		t.Fatalf("setcap: %v", err)
	}
	for _, c := range []struct{ bound, port, want string }{
		{"-all,+net_bind_service", ":80", `msg=serving what="http :80"`},
		{"-all", ":80", "permission denied"},
		{"-all", ":8080", `msg=serving what="http :8080"`},
	} {
		if err := saysL7(t.Context(), program, dir, c.bound, c.port, c.want); err != nil {
			t.Errorf("bounding set %s, port %s: %v", c.bound, c.port, err)
		}
	}
}

// permitted is the extended attribute of cap_…=p (capabilities(7), version 2).
func permitted(bit int) []byte {
	const version = 0x02000000
	out := binary.LittleEndian.AppendUint32(nil, version)
	out = binary.LittleEndian.AppendUint32(out, 1<<bit)
	return append(out, make([]byte, 12)...)
}

// saysL7 runs fairlead l7 in a network of its own until it has said something.
func saysL7(ctx context.Context, program, dir, bound, port, want string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	user := fmt.Sprint(l7User)
	cmd := exec.CommandContext(ctx, "unshare", "--net", "setpriv", "--reuid="+user, "--regid="+user, "--clear-groups", "--bounding-set="+bound,
		program, "l7", "--manifests="+dir, "--hostname-override=n1", "--http-bind-address="+port, "--https-bind-address=",
		"--healthz-bind-address=", "--metrics-bind-address=", "--status-bind-address=")
	var log lines
	cmd.Stdout, cmd.Stderr, cmd.Dir = &log, &log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { cancel(); <-ended }()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		said := log.String()
		if strings.Contains(said, want) {
			tick.Stop()
			return nil
		}
		select {
		case <-tick.C:
		case err := <-ended:
			ended <- err
			if said = log.String(); strings.Contains(said, want) {
				return nil
			}
			return fmt.Errorf("ended with %v, without %q: %s", err, want, said)
		}
	}
}
