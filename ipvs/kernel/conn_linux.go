package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The size of what is sent at once. Larger buffers were no faster and need
// privileges; each message is executed before the call returns.
const maxSend = 64 << 10

// room is what must be left in a batch for the messages of one op.
const room = 1 << 10

// perError is more memory than the kernel charges for one queued error. It loses
// errors, and the acknowledgement with them, that do not fit the receive buffer.
const perError = 1 << 10

// patience is how long the kernel may take for an answer. It answers within the
// call that asks, so this only ends what would never end.
const patience = 10 * time.Second

// maxDumps is how often a dump is tried if others change what it lists.
const maxDumps = 10

// errInterrupted says that a dump is not to be trusted.
var errInterrupted = errors.New("changed while it was read")

// A conn is a netlink socket for requests. It opens itself when it is used, and
// again after an error that leaves answers behind in it.
type conn struct {
	protocol int
	file     *os.File // nil if closed
	seq      uint32
	in       []byte
	maxBytes int // in a batch
	maxMsgs  int
}

func (c *conn) open() error {
	if c.file != nil {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, c.protocol)
	if err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	if err := c.configure(fd); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	c.file = os.NewFile(uintptr(fd), "netlink")
	if c.in == nil {
		c.in = make([]byte, 64<<10) // the kernel's own limit for one read is 32 KiB
	}
	return nil
}

func (c *conn) configure(fd int) error {
	addr := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := unix.Bind(fd, addr); err != nil {
		return fmt.Errorf("bind netlink socket: %w", err)
	}
	// From the kernel only.
	if err := unix.Connect(fd, addr); err != nil {
		return fmt.Errorf("connect netlink socket: %w", err)
	}
	// Errors without the message they are about; without it they only cost more.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	// Dumps filtered by the kernel, since 4.20; we filter anyway.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	// So that every message of a batch can fail. Needs privilege over the machine.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 2<<20)
	received, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return fmt.Errorf("size of the receive buffer: %w", err)
	}
	sendable, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return fmt.Errorf("size of the send buffer: %w", err)
	}
	c.maxMsgs = max(received/perError, 8)
	c.maxBytes = min(maxSend, max(sendable-room, 2*room))
	return nil
}

func (c *conn) close() error {
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	return err
}

// full reports whether b has no room for another op.
func (c *conn) full(b *batch) bool {
	return len(b.buf)+room > c.maxBytes || len(b.msgs)+4 > c.maxMsgs
}

// exchange sends b, with the last message as the barrier, and calls failed for
// every message that was refused, by its place. After an error nothing is known
// of any. Messages after one that failed are executed all the same.
func (c *conn) exchange(ctx context.Context, b *batch, failed func(place int, e syscall.Errno)) error {
	b.flag(unix.NLM_F_ACK)
	return c.talk(ctx, b, func(place int, m message) (bool, error) {
		if m.typ != unix.NLMSG_ERROR {
			return false, nil
		}
		switch e := m.errno(); e {
		case 0:
		case unix.EPERM: // some refuse the whole batch for this with one answer
			return false, fmt.Errorf("kernel: %w", e)
		default:
			failed(place, e)
		}
		return place == len(b.msgs)-1, nil
	})
}

// get sends the only message of b and calls each for what comes back, before the
// error of the kernel is known, which is returned as it is: a syscall.Errno.
func (c *conn) get(ctx context.Context, b *batch, each func(m message)) error {
	b.flag(unix.NLM_F_ACK)
	var refusal syscall.Errno
	err := c.talk(ctx, b, func(_ int, m message) (bool, error) {
		if m.typ == unix.NLMSG_ERROR {
			refusal = m.errno()
			return true, nil
		}
		each(m)
		return false, nil
	})
	if err == nil && refusal != 0 {
		return refusal
	}
	return err
}

// dump is get for a list. It starts again, which it announces by calling start,
// until the list was not changed while it was read.
func (c *conn) dump(ctx context.Context, b *batch, start func(), each func(m message)) error {
	b.flag(unix.NLM_F_DUMP)
	for range maxDumps {
		start()
		var refusal syscall.Errno
		interrupted := false
		err := c.talk(ctx, b, func(_ int, m message) (bool, error) {
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			if m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE {
				refusal = m.errno()
				return true, nil
			}
			each(m)
			return false, nil
		})
		switch {
		case err != nil:
			return err
		case refusal == unix.EINTR || refusal == 0 && interrupted:
			continue
		case refusal != 0:
			return refusal
		}
		return nil
	}
	return errInterrupted
}

// talk sends b and hands every answer to it to hear, with the place of the
// message in b that it answers, until hear says that it was the last.
func (c *conn) talk(ctx context.Context, b *batch, hear func(place int, m message) (bool, error)) error {
	if err := c.open(); err != nil {
		return err
	}
	file := c.file
	cancelled := context.AfterFunc(ctx, func() { _ = file.SetDeadline(time.Unix(1, 0)) })
	err := c.ask(ctx, b, hear)
	if !cancelled() || err != nil {
		// Answers may be left, or a deadline in the past. What close says of a
		// socket adds nothing.
		_ = c.close()
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (c *conn) ask(ctx context.Context, b *batch, hear func(place int, m message) (bool, error)) error {
	first := c.seq + 1
	c.seq += uint32(len(b.msgs)) //nolint:gosec // at most thousands
	b.number(first)
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := c.file.Write(b.buf); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	for {
		if err := c.file.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return fmt.Errorf("deadline: %w", err)
		}
		if err := ctx.Err(); err != nil { // after the deadline, which it sets too
			return err
		}
		n, err := c.file.Read(c.in)
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		for rest := c.in[:n]; len(rest) > 0; {
			var m message
			if m, rest, err = nextMessage(rest); err != nil {
				return err
			}
			place := int(int32(m.seq - first))
			if place < 0 || place >= len(b.msgs) {
				continue
			}
			if ended, err := hear(place, m); ended || err != nil {
				return err
			}
		}
	}
}
