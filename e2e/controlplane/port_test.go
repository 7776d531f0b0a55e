//go:build linux

package controlplane

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPortClaim(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "0.0.0.0", "::1"} {
		t.Run(addr, func(t *testing.T) {
			addr := netip.MustParseAddr(addr)
			c, err := claimPort(addr, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer c.close()
			if c.port == 0 {
				t.Fatal("claimed port 0")
			}

			if second, err := claimPort(addr, c.port); !errors.Is(err, syscall.EADDRINUSE) {
				second.close()
				t.Errorf("second claim: got %v, want %v", err, syscall.EADDRINUSE)
			}
			target := netip.AddrPortFrom(addr, c.port).String()
			if conn, err := net.Dial("tcp", target); !errors.Is(err, syscall.ECONNREFUSED) {
				if err == nil {
					conn.Close()
				}
				t.Errorf("dial of a claimed port: got %v, want %v", err, syscall.ECONNREFUSED)
			}

			l, err := sharing().Listen(t.Context(), "tcp", target)
			if err != nil {
				t.Fatalf("listen beside the claim: %v", err)
			}
			defer l.Close()
			// All of these would not reach the listener if the claim took its share.
			for range 20 {
				conn, err := net.Dial("tcp", target)
				if err != nil {
					t.Fatalf("dial beside the claim: %v", err)
				}
				conn.Close()
			}
		})
	}
}

// sharing listens the way kube-apiserver does with --permit-port-sharing.
func sharing() *net.ListenConfig {
	return &net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(ctlErr, err)
	}}
}
