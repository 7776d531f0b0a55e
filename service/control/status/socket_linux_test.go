package status_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service/control/status"
)

// serve answers at a socket with a name, until the returned function is called.
func serve(t *testing.T, path, name string) (stop func()) {
	t.Helper()
	l, err := status.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /name", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(name) })
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	mux.HandleFunc("GET /usage", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "--to: wrong", http.StatusBadRequest) })
	mux.HandleFunc("GET /broken", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not yet", http.StatusInternalServerError) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- status.Serve(ctx, l, mux, slog.New(slog.DiscardHandler)) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v, want nil", err)
		}
	}
}

func ask(t *testing.T, path, what string) (string, error) {
	t.Helper()
	var got string
	err := status.NewClient(path).Ask(t.Context(), what, nil, &got)
	return got, err
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "status.sock")
	stop := serve(t, path, "one")
	if got, err := ask(t, path, "name"); got != "one" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	var echo map[string]int
	if err := status.NewClient(path).Ask(t.Context(), "echo", map[string]int{"a": 1}, &echo); err != nil || echo["a"] != 1 {
		t.Errorf("got %v, %v", echo, err)
	}
	if _, err := ask(t, path, "usage"); err != status.RefusedError("--to: wrong") {
		t.Errorf("a bad question: %v", err)
	}
	if _, err := ask(t, path, "broken"); err == nil || err == status.RefusedError("not yet") || err.Error() != "not yet" {
		t.Errorf("an answer that cannot be had: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the folder: %v, %v", info, err)
	}

	// A successor takes the path, and its end is the end of it.
	stopTwo := serve(t, path, "two")
	stop()
	if got, err := ask(t, path, "name"); got != "two" || err != nil {
		t.Errorf("after a successor came: %q, %v", got, err)
	}
	stopTwo()
	if _, err := ask(t, path, "name"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no fairlead listens here") {
		t.Errorf("with nobody there: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSocketLeftBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, path, "name"); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("asking a dead socket: %v", err)
	}
	defer serve(t, path, "one")()
	if got, err := ask(t, path, "name"); got != "one" || err != nil {
		t.Errorf("after taking it over: %q, %v", got, err)
	}
}

func TestListenErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"run/status.sock":                    "not an absolute path",
		"@fairlead":                          "not an absolute path",
		"/" + strings.Repeat("x", 100):       "longer than 100 bytes",
		file:                                 "no socket",
		filepath.Join(file, "status.sock"):   "make the folder",
		"/proc/nowhere/fairlead/status.sock": "make the folder",
	} {
		if l, err := status.Listen(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want an error with %q", path, l, err, want)
		}
	}
	if text, err := os.ReadFile(file); string(text) != "precious" || err != nil {
		t.Errorf("the file is now %q, %v", text, err)
	}
}

// TestStrangers: the mode of a file is not the only guard.
func TestStrangers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs to be root, to become somebody else")
	}
	dir, err := os.MkdirTemp("", "status") // the one of the test is for root only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "status.sock")
	stop := serve(t, path, "one")
	t.Run("who may not ask", func(t *testing.T) {
		for _, open := range []bool{false, true} {
			if open {
				if err := os.Chmod(path, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			as(t, 65532, func() {
				c, err := net.Dial("unix", path)
				if !open {
					if !errors.Is(err, fs.ErrPermission) {
						t.Errorf("connecting to a socket that is not open to us: %v", err)
					}
					return
				}
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				defer c.Close()
				_, _ = io.WriteString(c, "GET /name HTTP/1.0\r\n\r\n")
				if answer, _ := io.ReadAll(c); len(answer) > 0 {
					t.Errorf("a stranger was told %q", answer)
				}
			})
		}
	})
	stop()
	t.Run("who may not answer", func(t *testing.T) {
		var l net.Listener
		as(t, 65532, func() { l, err = net.Listen("unix", path) })
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := ask(t, path, "name"); err == nil || !strings.Contains(err.Error(), "do not trust") {
			t.Errorf("asking a socket of a stranger: %v", err)
		}
	})
}

// as does something as another user, on a thread that ends with it.
func as(t *testing.T, uid int, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread is not fit for others any more
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			t.Errorf("become user %d: %v", uid, errno)
			return
		}
		do()
	}()
	<-done
}
