//go:build linux

// Package handover passes listeners from a process to the one that replaces it, so that no connection is
// refused or lost in between: both hold the same socket, and what waits in its queue is accepted by whoever accepts.
//
//	new process ──connects──▶ unix socket of the old one
//	            ◀─names, descriptors (SCM_RIGHTS, unix(7))─
//	            ──"ready"──▶  once it serves        the old one stops accepting, and drains
//	listens at the path itself
//
// A new process that fails before it is ready changes nothing. The socket is for the same user only: it checks
// who is at the other end (SO_PEERCRED).
package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxListeners = 16
	// answerTime bounds what the other process may take to answer, which is no more than copying descriptors.
	answerTime = 5 * time.Second
	ready      = "ready"
)

// A Share is a net.Listener whose socket can be shared: a *net.TCPListener.
type Share interface {
	net.Listener
	File() (*os.File, error)
}

// An Estate is what a process has got from the one before it.
type Estate struct {
	Listeners map[string]net.Listener // by name
	conn      *net.UnixConn
}

// Take asks the process that offers its listeners at path for them. It returns nil if there is none.
func Take(path string) (*Estate, error) {
	c, err := net.DialTimeout("unix", path, answerTime)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask for listeners: %w", err)
	}
	e := &Estate{conn: c.(*net.UnixConn)}
	if err := e.receive(); err != nil {
		return nil, errors.Join(fmt.Errorf("take over listeners at %s: %w", path, err), e.Close())
	}
	return e, nil
}

func (e *Estate) receive() error {
	if err := e.conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	data, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*maxListeners))
	n, m, _, _, err := e.conn.ReadMsgUnix(data, oob)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil {
		return fmt.Errorf("descriptors: %w", err)
	}
	var fds []int
	for i := range messages {
		list, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fmt.Errorf("descriptors: %w", err)
		}
		fds = append(fds, list...)
	}
	var names []string
	err = json.Unmarshal(data[:n], &names)
	switch {
	case err != nil:
	case len(names) != len(fds):
		err = fmt.Errorf("%d names for %d descriptors", len(names), len(fds))
	case len(slices.Compact(slices.Sorted(slices.Values(names)))) != len(names):
		err = errors.New("two listeners have one name")
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return err
	}
	e.Listeners = make(map[string]net.Listener)
	var errs []error
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), names[i])
		l, err := net.FileListener(f)
		errs = append(errs, err, f.Close())
		if err == nil {
			e.Listeners[names[i]] = l
		}
	}
	return errors.Join(errs...)
}

// TakeOver tells the other process that its time is over. Listeners that this one does not use have to be closed, or
// their clients would wait for nobody.
func (e *Estate) TakeOver() error {
	err := e.conn.SetDeadline(time.Now().Add(answerTime))
	if err == nil {
		_, err = io.WriteString(e.conn, ready)
	}
	return errors.Join(err, e.conn.Close())
}

// Close gives up without taking over: the other process goes on.
func (e *Estate) Close() error {
	errs := []error{e.conn.Close()}
	for _, l := range e.Listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// An Offer waits for a process that takes over.
type Offer struct {
	path      string
	socket    *net.UnixListener
	listeners map[string]Share
	taken     chan struct{}
	once      sync.Once
}

// NewOffer offers listeners at path from now on. The socket of an earlier process is replaced; what is there and is no
// socket is an error.
func NewOffer(path string, listeners map[string]Share) (*Offer, error) {
	if len(listeners) > maxListeners {
		return nil, fmt.Errorf("hand over %d listeners: no more than %d can be", len(listeners), maxListeners)
	}
	if err := removeSocket(path); err != nil {
		return nil, fmt.Errorf("offer listeners: %w", err)
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("offer listeners: %w", err)
	}
	socket.SetUnlinkOnClose(false) // it may be the successor's by then
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("offer listeners: %w", err), socket.Close())
	}
	return &Offer{path: path, socket: socket, listeners: listeners, taken: make(chan struct{})}, nil
}

// Taken is closed when another process has taken over.
func (o *Offer) Taken() <-chan struct{} { return o.taken }

func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is no socket", path)
	}
	return os.Remove(path)
}

// Run answers until ctx is done or somebody has taken over, and then returns nil. A process that asks and never
// becomes ready does not keep others from asking.
func (o *Offer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { o.socket.Close() })()
	for {
		c, err := o.socket.AcceptUnix()
		switch {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		default:
			return errors.Join(fmt.Errorf("offer listeners: %w", err), o.socket.Close())
		}
		group.Go(func() {
			if o.give(ctx, c) {
				o.once.Do(func() { close(o.taken) })
				cancel()
			}
		})
	}
}

// give hands the listeners over and reports whether the other process has taken them in use.
func (o *Offer) give(ctx context.Context, c *net.UnixConn) bool {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if !sameUser(c) || c.SetWriteDeadline(time.Now().Add(answerTime)) != nil {
		return false
	}
	names := slices.Sorted(maps.Keys(o.listeners))
	var fds []int
	for _, n := range names {
		f, err := o.listeners[n].File()
		if err != nil {
			return false
		}
		defer f.Close()
		fd, err := descriptor(f)
		if err != nil {
			return false
		}
		fds = append(fds, fd)
	}
	text, err := json.Marshal(names)
	if err != nil {
		return false
	}
	if _, _, err := c.WriteMsgUnix(text, unix.UnixRights(fds...), nil); err != nil {
		return false
	}
	answer := make([]byte, len(ready))
	_, err = io.ReadFull(c, answer)
	return err == nil && string(answer) == ready
}

// descriptor returns the number that f has. Fd would do that too, but make the socket blocking for all who have it.
func descriptor(f *os.File) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	return n, raw.Control(func(fd uintptr) { n = int(fd) })
}

// sameUser reports whether the process at the other end is of our user, or root's.
func sameUser(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return err == nil && credErr == nil && (cred.Uid == 0 || int(cred.Uid) == os.Getuid())
}
