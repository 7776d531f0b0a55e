package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (old, next *Conn) {
	t.Helper()
	name := fmt.Sprintf("fairlead/test/%d/%s", os.Getpid(), t.Name())
	l, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	dialed := make(chan error, 1)
	go func() {
		var err error
		next, err = Dial(name)
		dialed <- err
	}()
	if err := privileged(); err != nil {
		t.Skip(err)
	}
	if old, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := <-dialed; err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Dial(name); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after Close: %v, want that nobody is there", err)
	}
	t.Cleanup(func() { old.Close(); next.Close() })
	for _, c := range []*Conn{old, next} {
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return old, next
}

// privileged returns an error unless this process can prove itself.
func privileged() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer CloseAll([]int{fd})
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, least); err != nil {
		return fmt.Errorf("CAP_NET_ADMIN is needed: %w", err)
	}
	return nil
}

// TestStranger: the own user is not enough, nor is a proof that others have been shown.
func TestStranger(t *testing.T) {
	name := fmt.Sprintf("fairlead/test/%d/stranger", os.Getpid())
	l, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			t.Error("somebody was let in")
			c.Close()
		}
	}()
	for _, proof := range []func() []int{
		func() []int { return nil },
		func() []int { return []int{plainSocket(t, 1<<20)} },
		func() []int { return []int{plainSocket(t, least)} },
	} {
		raw, err := net.DialUnix("unixpacket", nil, address(name))
		if err != nil {
			t.Fatal(err)
		}
		c := &Conn{unix: raw}
		var asked challenge
		if err := c.Send(challenge{least}, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.receiveBare(&asked); err != nil || asked.Buffer < least {
			t.Errorf("asked for %d, %v", asked.Buffer, err)
		}
		fds := proof()
		if err := c.Send(struct{}{}, fds); err != nil {
			t.Fatal(err)
		}
		CloseAll(fds)
		for err == nil { // the proof of the other end, and then the end
			var got any
			err = c.receiveBare(&got)
		}
		c.Close()
	}
	l.Close()
	<-done
}

// plainSocket returns a socket with as large a buffer as this process may have, up to
// size.
func plainSocket(t *testing.T, size int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) // or less
	return fd
}

func TestDescriptors(t *testing.T) {
	old, next := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("in the pipe"); err != nil {
		t.Fatal(err)
	}
	type message struct{ A, B string }
	if err := old.Send(message{"one", "two"}, []int{int(r.Fd())}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var got struct{ A string } // B is of another version
	fds, err := next.Receive(&got)
	if err != nil || got.A != "one" || len(fds) != 1 {
		t.Fatalf("got %+v, %d descriptors, %v", got, len(fds), err)
	}
	text := make([]byte, 32)
	n, err := unix.Read(fds[0], text)
	if err != nil || string(text[:n]) != "in the pipe" {
		t.Errorf("got %q, %v", text[:n], err)
	}
	if flags, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v, want close-on-exec", flags, err)
	}
	CloseAll(fds)
	if err := old.Send(message{}, make([]int, MaxFDs+1)); err == nil {
		t.Error("more descriptors than the kernel takes were sent")
	}
	if err := old.Send(make([]byte, MaxSize), nil); err == nil {
		t.Error("a message was sent that is longer than the other end reads")
	}
}

// TestShut has both ends agree on what was said.
func TestShut(t *testing.T) {
	old, next := pair(t)
	if err := next.Send("before", nil); err != nil {
		t.Fatal(err)
	}
	if err := old.Shut(); err != nil {
		t.Fatal(err)
	}
	if err := next.Send("after", nil); !errors.Is(err, unix.EPIPE) {
		t.Errorf("after Shut: %v, want EPIPE", err)
	}
	var got string
	if _, err := old.Receive(&got); err != nil || got != "before" {
		t.Errorf("got %q, %v, want what was sent before", got, err)
	}
	if _, err := old.Receive(&got); err == nil {
		t.Errorf("got %q, want the end", got)
	}
}

func TestNameTaken(t *testing.T) {
	name := fmt.Sprintf("fairlead/test/%d/taken", os.Getpid())
	l, err := Listen(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(name); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("got %v, want that somebody has it", err)
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}
