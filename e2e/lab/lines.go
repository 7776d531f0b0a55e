//go:build linux

package lab

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// lines are the connections between the host and a guest: its console, the
// output (and input) of the job, and its result.
type lines struct {
	job     *Job
	console *console
	output  wire
	result  wire

	readers sync.WaitGroup
	text    strings.Builder // read from result; valid once readers are done
}

// A wire is a connected pair of sockets.
type wire struct {
	here  *os.File
	there *os.File // for the process that is the guest
}

func newWire() (wire, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return wire{}, fmt.Errorf("make a pair of sockets: %w", err)
	}
	// Only a descriptor that does not block can be read until it is closed.
	err = unix.SetNonblock(fds[0], true)
	w := wire{here: os.NewFile(uintptr(fds[0]), "lab"), there: os.NewFile(uintptr(fds[1]), "guest")}
	if err != nil {
		w.close()
		return wire{}, fmt.Errorf("make a pair of sockets: %w", err)
	}
	return w, nil
}

func (w wire) close() {
	w.here.Close()
	w.there.Close()
}

func newLines(j *Job) (*lines, error) {
	output, err := newWire()
	if err != nil {
		return nil, err
	}
	result, err := newWire()
	if err != nil {
		output.close()
		return nil, err
	}
	return &lines{job: j, console: &console{}, output: output, result: result}, nil
}

func (l *lines) close() {
	l.output.close()
	l.result.close()
	l.readers.Wait()
}

// begin is to be called when the guest has its ends, so that it alone has them.
func (l *lines) begin() {
	l.output.there.Close()
	l.result.there.Close()
	l.readers.Go(l.readOutput)
	l.readers.Go(func() { io.Copy(&l.text, l.result.here) })
	if l.job.Input != nil {
		// Nobody waits for this one: there is no way to end a Read of any Reader.
		go io.Copy(l.output.here, l.job.Input)
	}
}

// readOutput must not stop before the guest has, which would wait for us.
func (l *lines) readOutput() {
	out := l.job.Output
	if out == nil {
		out = io.Discard
	}
	if l.job.Input != nil {
		io.Copy(out, l.output.here)
		return
	}
	for r := bufio.NewReader(l.output.here); ; {
		line, err := r.ReadString('\n')
		if line != "" {
			io.WriteString(out, line)
		}
		if err != nil {
			return
		}
	}
}

// exitCode waits until the guest has closed its ends, so it must have ended.
func (l *lines) exitCode() (int, bool) {
	l.readers.Wait()
	text, ok := strings.CutPrefix(strings.TrimSpace(l.text.String()), "exit ")
	code, err := strconv.Atoi(text)
	return code, ok && err == nil
}

// console keeps the end of what is written to it.
type console struct {
	mu   sync.Mutex
	text []byte
}

const maxConsole = 8 << 10

func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, b...)
	if over := len(c.text) - maxConsole; over > 0 {
		c.text = append(c.text[:0], c.text[over:]...)
	}
	return len(b), nil
}

func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimSpace(strings.ReplaceAll(string(c.text), "\r", ""))
}
