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

	begun chan struct{} // closed when the guest says that it begins with the job
	told  chan struct{} // closed when it has said the exit code

	readers sync.WaitGroup
	code    int // of the job, valid once told is closed
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
	return &lines{
		job: j, console: &console{}, output: output, result: result,
		begun: make(chan struct{}), told: make(chan struct{}),
	}, nil
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
	l.readers.Go(l.readResult)
	if l.job.Input != nil {
		// Nobody waits for this one: there is no way to end a Read of any Reader.
		go l.typeInput()
	}
}

// typeInput waits until somebody reads: a terminal that nobody has opened
// forgets what is typed.
func (l *lines) typeInput() {
	<-l.begun
	io.Copy(l.output.here, l.job.Input)
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

// readResult hears "begin" and "exit N" once each. Anything else is noise.
func (l *lines) readResult() {
	begun, told := false, false
	for lines := bufio.NewScanner(l.result.here); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "begin" && !begun {
			begun = true
			close(l.begun)
		}
		text, ok := strings.CutPrefix(line, "exit ")
		code, err := strconv.Atoi(text)
		if ok && err == nil && !told {
			told = true
			l.code = code
			close(l.told)
		}
	}
}

// exitCode waits until the guest has closed its ends, so it must have ended.
func (l *lines) exitCode() (code int, ok bool) {
	l.readers.Wait()
	select {
	case <-l.told:
		return l.code, true
	default:
		return -1, false
	}
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
