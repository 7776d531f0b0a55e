package handover

import (
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

// A receive buffer of least or more is larger than any net.core.rmem_max, so that only
// CAP_NET_ADMIN lets a process ask for it (SO_RCVBUFFORCE, sk_setsockopt in
// net/core/sock.c). It takes no memory before it is used. The kernel doubles what is
// asked for, in an int.
const (
	least = 1 << 29
	most  = 1<<30 - 1
)

// proveIn is how long the other end has to prove itself. Who connects and keeps silent
// holds others up as long.
const proveIn = 2 * time.Second

// A challenge is what one end asks of the other: a socket with a receive buffer of
// that size. It is another number each time, so that a proof is of no use to whoever
// has been shown it.
type challenge struct{ Buffer int }

// prove has each end show the other that it has CAP_NET_ADMIN, without which it could
// not have the sockets that are handed over.
func (c *Conn) prove() error {
	if err := c.SetDeadline(time.Now().Add(proveIn)); err != nil {
		return err
	}
	mine, theirs := challenge{least + rand.IntN(most-least)}, challenge{}
	if err := c.Send(mine, nil); err != nil {
		return fmt.Errorf("ask for a proof: %w", err)
	}
	if err := c.receiveBare(&theirs); err != nil {
		return fmt.Errorf("be asked for a proof: %w", err)
	}
	if err := c.show(theirs.Buffer); err != nil {
		return err
	}
	fds, err := c.Receive(&struct{}{})
	if err != nil {
		return fmt.Errorf("see a proof: %w", err)
	}
	defer CloseAll(fds)
	if len(fds) != 1 {
		return ErrStranger
	}
	got, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil || got != 2*mine.Buffer {
		return ErrStranger
	}
	return c.SetDeadline(time.Time{})
}

// receiveBare receives a message that has no descriptors.
func (c *Conn) receiveBare(message any) error {
	fds, err := c.Receive(message)
	CloseAll(fds)
	return err
}

// show sends a socket with a receive buffer of size bytes.
func (c *Conn) show(size int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("show a proof: %w", err)
	}
	defer CloseAll([]int{fd})
	if size < least || size > most {
		return fmt.Errorf("show a proof: a buffer of %d bytes proves nothing", size)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size); err != nil {
		return fmt.Errorf("show a proof of CAP_NET_ADMIN: %w", err)
	}
	return c.Send(struct{}{}, []int{fd})
}
