package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultSocket is where a process listens unless it is told otherwise.
const DefaultSocket = "/run/fairlead/status.sock"

const (
	maxPath    = 100              // of a socket, less room for a process ID; the kernel takes 107 bytes
	maxRequest = 64 << 10         // bytes of a question
	maxAnswer  = 64 << 20         // bytes of an answer: a trace of ten thousand ways
	timeout    = 30 * time.Second // for an answer
)

// CheckPath reports what is wrong with the path of a socket.
func CheckPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("%q is not an absolute path", path)
	case len(path) > maxPath:
		return fmt.Errorf("%q is longer than %d bytes", path, maxPath)
	}
	return nil
}

// Listen makes a socket at path, and the folder it is in. A socket that is there
// already is replaced in one step, whoever has left it: of two processes, the
// younger one is asked. Closing the listener removes the socket, unless it is
// another one by then. Connections of anybody but root and the user of this
// process are closed before a byte is read.
func Listen(path string) (net.Listener, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the status socket: %w", err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%s is there and is no socket", path)
	}
	draft := path + "." + strconv.Itoa(os.Getpid())
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make the status socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: draft, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the status socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	out := &listener{UnixListener: l, path: path}
	if err := out.publish(draft); err != nil {
		return nil, errors.Join(fmt.Errorf("make the status socket: %w", err), l.Close(), os.Remove(draft))
	}
	return out, nil
}

// A listener is that of Listen.
type listener struct {
	*net.UnixListener
	path string
	file fs.FileInfo // what path was when it was ours
}

func (l *listener) publish(draft string) error {
	if err := os.Chmod(draft, 0o600); err != nil {
		return err
	}
	var err error
	if l.file, err = os.Lstat(draft); err != nil {
		return err
	}
	return os.Rename(draft, l.path)
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if checkPeer(c) == nil {
			return c, nil
		}
		_ = c.Close() // of somebody who is none of our business
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	var gone error
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
		gone = os.Remove(l.path)
	}
	return errors.Join(l.UnixListener.Close(), gone)
}

// checkPeer returns an error unless root or the user of this process is at the
// other end.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("ask who is at the other end: %w", credErr)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d is at the other end, neither root nor we", cred.Uid)
	}
	return nil
}

// Serve answers at l until ctx is done, and closes it.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           http.MaxBytesHandler(h, maxRequest),
		ReadHeaderTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, IdleTimeout: timeout,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // answers are short, and nobody depends on one
	defer stop()
	if err := srv.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the status socket: %w", err)
	}
	return nil
}

// A Client asks the process that listens at a socket.
type Client struct{ path string }

// NewClient returns a Client for the socket at path.
func NewClient(path string) *Client { return &Client{path} }

// A RefusedError is a question that the process does not take: something is wrong
// with it.
type RefusedError string

// Error returns what the process said.
func (e RefusedError) Error() string { return string(e) }

// Ask sends a request to the process and decodes its JSON answer. A nil question
// is a GET, any other a POST. What the process answers with a 4xx is a
// [RefusedError].
func (c *Client) Ask(ctx context.Context, what string, question, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	method, body := http.MethodGet, []byte(nil)
	if question != nil {
		var err error
		if body, err = json.Marshal(question); err != nil {
			return fmt.Errorf("ask fairlead: %w", err)
		}
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://fairlead/"+what, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask fairlead: %w", err)
	}
	tr := &http.Transport{DialContext: c.dial, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return c.explain(err)
	}
	if resp.StatusCode >= 400 {
		said := strings.TrimSpace(string(text))
		if resp.StatusCode < 500 {
			return RefusedError(said)
		}
		return errors.New(said)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("understand the answer of fairlead at %s: %w", c.path, err)
	}
	return nil
}

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, err
	}
	if err := checkPeer(conn.(*net.UnixConn)); err != nil { // or anybody could tell us anything
		return nil, errors.Join(fmt.Errorf("do not trust the socket %s: %w", c.path, err), conn.Close())
	}
	return conn, nil
}

// explain says what an error of a connection means to the one who asks.
func (c *Client) explain(err error) error {
	why := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = "no fairlead listens here: it does not run, or in a container whose files are others, or with another --status-socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "the fairlead that has made this socket is gone"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		why = "only root and the user that fairlead runs as may ask"
	default:
		return fmt.Errorf("ask fairlead at %s: %w", c.path, err)
	}
	return fmt.Errorf("ask fairlead at %s: %s: %w", c.path, why, errors.Unwrap(err))
}
