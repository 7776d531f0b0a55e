package relay

import "golang.org/x/sys/unix"

const (
	// spliceAfter is how much a flow has moved when it may be spliced. Short
	// answers, which are most, are cheaper to copy.
	spliceAfter = 64 << 10

	// turn is how much a flow may move before others have theirs.
	turn = 2 << 20
)

// pump moves what it can from side i to the other. It reports whether the
// connection is still there.
func (w *worker) pump(c *conn, i int) bool {
	src, dst, f := &c.side[i], &c.side[1-i], &c.flow[i]
	limit := f.moved + turn
	for f.moved < limit {
		if f.pending() {
			if !dst.out {
				return true
			}
			if err := w.flush(f, dst); err != 0 {
				w.abort(c, err)
				return false
			}
			continue
		}
		if src.eof {
			return w.end(c, i)
		}
		if !src.in {
			w.dropPipe(f)
			return true
		}
		if err := w.move(f, src, dst, i); err != 0 {
			w.abort(c, err)
			return false
		}
	}
	if !f.queued {
		f.queued = true
		w.turns = append(w.turns, flowRef{c.slot, c.gen, i})
	}
	return true
}

// move reads from src and writes to dst once.
func (w *worker) move(f *flow, src, dst *side, i int) unix.Errno {
	if f.bulk && w.takePipe(f) {
		return w.moveSpliced(f, src, dst, i)
	}
	n, err := receive(src.fd, w.scratch)
	switch {
	case err == unix.EAGAIN:
		src.in, src.urgent = false, false
		return 0
	case err == unix.EINTR:
		return 0
	case err != 0:
		return err
	case n == 0:
		src.eof = true
		return 0
	}
	if n < len(w.scratch) {
		if !src.urgent {
			src.in, src.eof = false, src.ended
		}
	} else if f.moved >= spliceAfter {
		f.bulk = true
	}
	f.moved += uint64(n)
	w.count.moved[i].Add(uint64(n))
	p, write := w.scratch[:n], send
	if src.eof {
		write = sendLast
	}
	m, err := write(dst.fd, p)
	if err != 0 && err != unix.EAGAIN && err != unix.EINTR {
		return err
	}
	if m < n {
		dst.out = err == unix.EINTR
		w.keep(f, p[m:])
	}
	return 0
}

// moveSpliced is move without a copy.
func (w *worker) moveSpliced(f *flow, src, dst *side, i int) unix.Errno {
	n, err := splice(src.fd, f.pipe.w, f.pipe.size)
	switch {
	case err == unix.EAGAIN:
		src.in, src.urgent = false, false
		return 0
	case err == unix.EINTR:
		return 0
	case err == unix.EINVAL, err == unix.ENOMEM:
		f.bulk = false // to be copied
		return 0
	case err != 0:
		return err
	case n == 0:
		src.eof = true
		return 0
	}
	if n < f.pipe.pages && !src.urgent {
		src.in, src.eof = false, src.ended // the pipe was not full, so the socket is empty
	}
	f.bulk = n >= bufferSize
	f.piped = int32(n)
	f.moved += uint64(n)
	w.count.moved[i].Add(uint64(n))
	w.count.spliced.Add(uint64(n))
	return w.flush(f, dst)
}

// flush writes what is pending. It clears dst.out if there was not room for all.
func (w *worker) flush(f *flow, dst *side) unix.Errno {
	if f.piped > 0 {
		n, err := splice(f.pipe.r, dst.fd, int(f.piped))
		if n == 0 && err == 0 {
			return unix.EIO // the pipe is not what we think it is; to try again would be for ever
		}
		f.piped -= int32(n)
		return blocked(dst, err)
	}
	if f.buf == nil {
		return 0
	}
	n, err := send(dst.fd, f.buf[f.begin:f.end])
	if f.begin += int32(n); f.begin == f.end {
		w.dropBuffer(f)
	}
	return blocked(dst, err)
}

// blocked notes that dst has no room if err says that, and returns other errors.
func blocked(dst *side, err unix.Errno) unix.Errno {
	switch err {
	case unix.EAGAIN:
		dst.out = false
		return 0
	case unix.EINTR:
		return 0
	}
	return err
}

// end passes the end of the stream of side i on. It reports whether the connection
// is still there.
func (w *worker) end(c *conn, i int) bool {
	f := &c.flow[i]
	if f.done {
		return true
	}
	f.done = true
	w.dropPipe(f)
	if c.flow[1-i].done {
		w.finish(c)
		return false
	}
	if err := endWriting(c.side[1-i].fd); err != 0 {
		w.abort(c, err)
		return false
	}
	return true
}
