package relay

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is how much is read at a time, and what a flow may hold that could
	// not be written. Larger ones cost more cache than they save calls.
	bufferSize = 16 << 10

	// pipeSize is what is asked of the kernel for a pipe. On a network a page of it
	// takes only the payload of one packet, on average.
	pipeSize = 1 << 20

	spareBuffers = 256 // per worker
	sparePipes   = 32  // per worker
)

type buffer [bufferSize]byte

// keep stores what could not be written.
func (w *worker) keep(f *flow, p []byte) {
	if n := len(w.buffers); n > 0 {
		f.buf, w.buffers = w.buffers[n-1], w.buffers[:n-1]
	} else {
		f.buf = new(buffer)
	}
	f.begin, f.end = 0, int32(copy(f.buf[:], p))
}

func (w *worker) dropBuffer(f *flow) {
	if f.buf != nil && len(w.buffers) < spareBuffers {
		w.buffers = append(w.buffers, f.buf)
	}
	f.buf, f.begin, f.end = nil, 0, 0
}

// A pipe is where the kernel keeps bytes that are spliced.
type pipe struct {
	r, w  int32
	size  int
	pages int // each holds at least one byte
}

// takePipe gives f a pipe. If there is none to be had, f is copied.
func (w *worker) takePipe(f *flow) bool {
	if f.pipe != nil {
		return true
	}
	if n := len(w.pipes); n > 0 {
		f.pipe, w.pipes = w.pipes[n-1], w.pipes[:n-1]
		return true
	}
	if w.engine.pipes.Add(1) <= w.engine.maxPipes {
		if f.pipe = openPipe(); f.pipe != nil {
			return true
		}
	}
	w.engine.pipes.Add(-1)
	return false
}

// dropPipe takes the pipe of f away. A pipe that is not empty is closed: it must not
// pass anything on to another connection.
func (w *worker) dropPipe(f *flow) {
	p := f.pipe
	if p == nil {
		return
	}
	if f.piped == 0 && len(w.pipes) < sparePipes {
		w.pipes = append(w.pipes, p)
	} else {
		p.close(&w.engine.pipes)
	}
	f.pipe, f.piped = nil, 0
}

// openPipe returns nil if the kernel has none to give.
func openPipe() *pipe {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil
	}
	size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size = defaultPipe() // users may have used up what they may have
	}
	return newPipe(fds[0], fds[1], size)
}

// takenPipe is one that another Engine has opened.
func takenPipe(r, w int) *pipe {
	size, err := unix.FcntlInt(uintptr(w), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		size = defaultPipe()
	}
	return newPipe(r, w, size)
}

func newPipe(r, w, size int) *pipe {
	return &pipe{r: int32(r), w: int32(w), size: size, pages: size / unix.Getpagesize()}
}

func defaultPipe() int { return 16 * unix.Getpagesize() }

func (p *pipe) close(open *atomic.Int64) {
	closeFD(p.r)
	closeFD(p.w)
	open.Add(-1)
}
