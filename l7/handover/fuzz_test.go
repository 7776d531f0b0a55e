package handover

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzReceive has whoever has the socket say anything: it is a list of names with as many descriptors, or an error, and no
// descriptor is left open.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(`["http :80"]`), uint8(1))
	f.Add([]byte(`["a","b"]`), uint8(1))
	f.Add([]byte(`["",""]`), uint8(2))
	f.Add([]byte(`{`), uint8(2))
	f.Add([]byte(`null`), uint8(0))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte, n uint8) {
		if len(text) == 0 || len(text) > 4096 {
			return
		}
		l, err := net.Listen("unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		before := descriptors(t)
		done := make(chan error, 1)
		go func() { done <- say(l, text, int(n%4)) }()
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		e := &Estate{conn: c.(*net.UnixConn)}
		err = e.receive()
		if err == nil && len(e.Listeners) > int(n%4) {
			t.Errorf("%d listeners of %d", len(e.Listeners), n%4)
		}
		e.Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors after %q, %d before", after, text, before)
		}
	})
}

// say sends text and n listeners to the next who connects.
func say(l net.Listener, text []byte, n int) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	var fds []int
	for range n {
		other, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer other.Close()
		file, err := other.(*net.TCPListener).File()
		if err != nil {
			return err
		}
		defer file.Close()
		fds = append(fds, int(file.Fd()))
	}
	_, _, err = c.(*net.UnixConn).WriteMsgUnix(text, unix.UnixRights(fds...), nil)
	return err
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
