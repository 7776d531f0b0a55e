package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// maxMessage bounds what is sent at once. The kernel copies it, and holds the lock of
// nf_tables while it works on it.
const maxMessage = 256 << 20

// readSize is what the kernel fills at most with one part of a dump.
const readSize = 64 << 10

// errInterrupted says that a list changed while it was read.
var errInterrupted = errors.New("changed while it was read")

// errNoAnswer says that the kernel did not say what it has done.
var errNoAnswer = errors.New("no answer from the kernel")

// A conn is a netlink socket to nf_tables. It opens itself when it is used, and again
// after an error. It is not safe for concurrent use. Requests are executed within
// the call that sends them, and cannot be interrupted.
type conn struct {
	fd       int // -1 if closed
	seq      uint32
	in       []byte
	sendable int // bytes at once, by the send buffer
}

func newConn() *conn { return &conn{fd: -1} }

func (c *conn) open() error {
	if c.fd >= 0 {
		return nil
	}
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, netlinkNetfilter)
	if err != nil {
		return fmt.Errorf("netlink socket: %w", os.NewSyscallError("socket", err))
	}
	if err := configure(fd); err != nil {
		return errors.Join(err, syscall.Close(fd))
	}
	c.fd, c.sendable = fd, 0
	if c.in == nil {
		c.in = make([]byte, readSize)
	}
	return nil
}

// Options of level SOL_NETLINK.
const (
	solNetlink    = 270
	netlinkCapAck = 10
)

func configure(fd int) error {
	addr := &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}
	if err := syscall.Bind(fd, addr); err != nil {
		return os.NewSyscallError("bind", err)
	}
	// Answers come from the kernel only.
	if err := syscall.Connect(fd, addr); err != nil {
		return os.NewSyscallError("connect", err)
	}
	// Errors without the message they are about; with it they only cost more.
	_ = syscall.SetsockoptInt(fd, solNetlink, netlinkCapAck, 1)
	// So that every message of a batch can fail. Needs privilege over the machine.
	_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, 1<<20)
	return nil
}

func (c *conn) close() {
	if c.fd >= 0 {
		_ = syscall.Close(c.fd) // nothing is lost that was not known
	}
	c.fd = -1
}

// makeRoom has the kernel take size bytes at once.
func (c *conn) makeRoom(size int) error {
	const reserve = 4 << 10
	if size+reserve <= c.sendable {
		return nil
	}
	if size > maxMessage {
		return fmt.Errorf("a change of %d bytes: %w", size, syscall.EMSGSIZE)
	}
	if syscall.SetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_SNDBUFFORCE, size+reserve) != nil {
		_ = syscall.SetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, size+reserve)
	}
	got, err := syscall.GetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	c.sendable = got
	return nil
}

// A refusal is a message that the kernel refused, by its place in the batch.
type refusal struct {
	place int
	errno syscall.Errno
}

// transact sends b, which is one transaction: all of it is done, or nothing. The kernel
// says everything it does not like. With an error nothing is known.
func (c *conn) transact(b *batch) ([]refusal, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	refused, err := c.talk(b)
	if err != nil {
		c.close()
	}
	return refused, err
}

func (c *conn) talk(b *batch) (refused []refusal, err error) {
	first, err := c.send(b)
	if err != nil {
		return nil, err
	}
	done := false
	for {
		n, err := c.receive()
		if err == syscall.EAGAIN { // nothing more: the kernel has answered before send returned
			break
		}
		if err != nil {
			return nil, os.NewSyscallError("recv", err)
		}
		for rest := c.in[:n]; len(rest) > 0; {
			m, more, ok := nextMessage(rest)
			if !ok {
				return nil, fmt.Errorf("an answer that is cut short: %w", errNoAnswer)
			}
			rest = more
			place := int(int32(m.seq - first))
			if m.typ != nlmsgError || place < 0 || place >= b.count {
				continue
			}
			if e := errnoOf(m); e != 0 {
				refused = append(refused, refusal{place, e})
			} else {
				done = true
			}
		}
	}
	if !done && len(refused) == 0 {
		return nil, errNoAnswer
	}
	return refused, nil
}

// send gives the messages of b sequence numbers, and returns the first.
func (c *conn) send(b *batch) (uint32, error) {
	if err := c.makeRoom(len(b.buf)); err != nil {
		return 0, err
	}
	first := c.seq + 1
	c.seq += uint32(b.count)
	b.number(first)
	for {
		n, err := syscall.SendmsgN(c.fd, b.buf, nil, nil, 0)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0, os.NewSyscallError("send", err)
		case n != len(b.buf):
			return 0, fmt.Errorf("send: %d bytes of %d", n, len(b.buf))
		}
		return first, nil
	}
}

func (c *conn) receive() (int, error) {
	for {
		n, _, err := syscall.Recvfrom(c.fd, c.in, 0)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

func errnoOf(m message) syscall.Errno {
	if len(m.data) < 4 {
		return syscall.EBADMSG
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(m.data)))
}

// ask sends the only message of b and hands every answer to each, which must not keep
// it. A refusal is returned as it is: a [syscall.Errno].
func (c *conn) ask(ctx context.Context, b *batch, each func(m message) error) error {
	if err := c.open(); err != nil {
		return err
	}
	err := c.listen(ctx, b, each)
	if _, refused := err.(syscall.Errno); err != nil && !refused {
		c.close() // answers may be left
	}
	return err
}

func (c *conn) listen(ctx context.Context, b *batch, each func(m message) error) error {
	first, err := c.send(b)
	if err != nil {
		return err
	}
	interrupted := false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := c.receive() // each call has the kernel make what it returns
		if err != nil {
			return os.NewSyscallError("recv", err)
		}
		for rest := c.in[:n]; len(rest) > 0; {
			m, more, ok := nextMessage(rest)
			if !ok {
				return fmt.Errorf("an answer that is cut short: %w", errNoAnswer)
			}
			rest = more
			if m.seq != first {
				continue
			}
			interrupted = interrupted || m.flags&flagDumpIntr != 0
			switch {
			case m.typ == nlmsgDone && interrupted:
				return errInterrupted
			case m.typ == nlmsgDone, m.typ == nlmsgError:
				if e := errnoOf(m); e != 0 {
					return e
				}
				return nil
			}
			if err := each(m); err != nil {
				return err
			}
		}
	}
}
