// Package handover carries messages with descriptors between a process and the one
// that takes its place (SCM_RIGHTS, unix(7)).
//
// The name of the socket is abstract: it belongs to the network namespace, as what
// is handed over does, needs no folder that both see, and is gone with whoever has
// it. Anybody in the namespace may try to connect or to be there first, a container in
// the host's network too, whose root may do little. So each end wants to know that the
// other is root or the own user (SO_PEERCRED), and has it show CAP_NET_ADMIN: see prove.
//
// A message is JSON, so that what one version adds another passes over.
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxFDs is how many descriptors a message may have: SCM_MAX_FD of the kernel.
	MaxFDs = 253

	// MaxSize is how long the JSON of a message may be. It is below what a socket
	// takes at a time by default (net.core.wmem_default).
	MaxSize = 160 << 10
)

// ErrStranger says that the process at the other end is of another user, or may not
// what we may.
var ErrStranger = errors.New("the process at the other end is of another user, or has no CAP_NET_ADMIN")

// A Conn is a connection between two processes. One goroutine may send, and one
// receive.
type Conn struct {
	unix *net.UnixConn
	text []byte
	oob  []byte
}

func address(name string) *net.UnixAddr { return &net.UnixAddr{Name: "@" + name, Net: "unixpacket"} }

// Dial connects to the process that listens at a name. The error is ECONNREFUSED if
// there is none.
func Dial(name string) (*Conn, error) {
	c, err := net.DialUnix("unixpacket", nil, address(name))
	if err != nil {
		return nil, err
	}
	return newConn(c)
}

// newConn takes c over, also if it fails.
func newConn(c *net.UnixConn) (*Conn, error) {
	known, err := sameUser(c)
	if err == nil && !known {
		err = ErrStranger
	}
	out := &Conn{unix: c}
	if err == nil {
		err = out.prove()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return out, nil
}

// A Listener waits for a process that takes over.
type Listener struct{ unix *net.UnixListener }

// Listen begins to wait at a name, which nobody else may have.
func Listen(name string) (*Listener, error) {
	l, err := net.ListenUnix("unixpacket", address(name))
	if err != nil {
		return nil, err
	}
	return &Listener{l}, nil
}

// Accept waits for the next process. Strangers are sent away. After Close the error
// is net.ErrClosed.
func (l *Listener) Accept() (*Conn, error) {
	for {
		c, err := l.unix.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if conn, err := newConn(c); err == nil {
			return conn, nil
		}
	}
}

// Close gives the name up. Connections stay.
func (l *Listener) Close() error { return l.unix.Close() }

// Close ends the connection.
func (c *Conn) Close() error { return c.unix.Close() }

// SetDeadline is for all that is sent and received after it.
func (c *Conn) SetDeadline(at time.Time) error { return c.unix.SetDeadline(at) }

// Shut keeps the other process from sending anything more: what it has sent before
// can still be received, and what it tries to send after fails there. So both know
// alike what was said.
func (c *Conn) Shut() error { return c.unix.CloseRead() }

// Send sends a message with descriptors, which stay open here.
func (c *Conn) Send(message any, fds []int) error {
	text, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if len(text) > MaxSize || len(fds) > MaxFDs {
		return fmt.Errorf("a message of %d bytes and %d descriptors is too long", len(text), len(fds))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.unix.WriteMsgUnix(text, rights, nil)
	return err
}

// Receive waits for a message, and returns its descriptors, which are the caller's.
// They are closed on exec. With an error there are none.
func (c *Conn) Receive(message any) ([]int, error) {
	if c.text == nil {
		c.text, c.oob = make([]byte, MaxSize), make([]byte, unix.CmsgSpace(4*MaxFDs))
	}
	n, m, flags, _, err := c.unix.ReadMsgUnix(c.text, c.oob)
	if err != nil {
		return nil, err
	}
	fds, err := descriptors(c.oob[:m])
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.Join(err, errors.New("cut off: no descriptors left?"))
	}
	if err == nil {
		if err = json.Unmarshal(c.text[:n], message); err != nil {
			err = fmt.Errorf("decode: %w", err)
		}
	}
	if err != nil {
		CloseAll(fds)
		return nil, err
	}
	return fds, nil
}

// descriptors returns those there are, also with an error.
func descriptors(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	var fds []int
	for i := range messages {
		list, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, fmt.Errorf("descriptors: %w", err)
		}
		fds = append(fds, list...)
	}
	return fds, nil
}

// CloseAll closes descriptors, and nothing else: what others have of them goes on.
func CloseAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // it is gone whatever Close returns
	}
}

// sameUser reports whether the process at the other end is of our user, or root's.
func sameUser(c *net.UnixConn) (bool, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, err
	}
	var cred *unix.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) { cred, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, asked); err != nil {
		return false, fmt.Errorf("ask who is at the other end: %w", err)
	}
	return cred.Uid == 0 || int(cred.Uid) == os.Getuid(), nil
}
