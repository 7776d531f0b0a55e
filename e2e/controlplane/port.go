//go:build linux

package controlplane

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// A portClaim holds a port for an API server that is started, stopped and
// started again: a socket bound to it, in the right namespace, that never
// listens. While only the claim is there the kernel refuses connections, which
// is what clients of a stopped API server should see.
type portClaim struct {
	fd   int
	port uint16
}

// claimPort binds addr in the calling thread's network namespace; port 0 is any
// that is free. A port in use is an error.
func claimPort(addr netip.Addr, port uint16) (portClaim, error) {
	c, err := bindPort(addr, port)
	if err != nil {
		return portClaim{}, fmt.Errorf("claim port %d of %v: %w", port, addr, err)
	}
	return c, nil
}

func bindPort(addr netip.Addr, port uint16) (portClaim, error) {
	family := unix.AF_INET6
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: addr.As16(), Port: int(port)}
	if addr.Is4() {
		family = unix.AF_INET
		sa = &unix.SockaddrInet4{Addr: addr.As4(), Port: int(port)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return portClaim{}, err
	}
	c := portClaim{fd: fd}
	if err := unix.Bind(fd, sa); err != nil {
		c.close()
		return portClaim{}, err
	}
	// Only after bind: with the option set before, a second claim of the same
	// user would succeed, and two API servers would share the port's
	// connections. With it set now, kube-apiserver's --permit-port-sharing gets
	// past the claim, and nobody else does who does not ask to share.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		c.close()
		return portClaim{}, err
	}
	if c.port, err = boundPort(fd); err != nil {
		c.close()
		return portClaim{}, err
	}
	return c, nil
}

func boundPort(fd int) (uint16, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), nil
	case *unix.SockaddrInet6:
		return uint16(sa.Port), nil
	}
	return 0, fmt.Errorf("bound to an address of type %T", sa)
}

func (c portClaim) close() { _ = unix.Close(c.fd) } // nothing was ever written to it
