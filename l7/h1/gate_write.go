package h1

import (
	"io"
	"net"
	"sync"
	"time"
)

const (
	// spliceStep is how much the kernel moves from socket to socket before we look at the clock.
	spliceStep = 512 << 10
	// spliceRate is the slowest rate at which a step may go on past a gap's time, in bytes a second.
	spliceRate = 8 << 10
	copySize   = 64 << 10
)

var copies = sync.Pool{New: func() any { return new([copySize]byte) }}

// Write sends to the client. It fails when the client takes nothing for WriteGap.
func (g *Gate) Write(p []byte) (int, error) {
	g.armWrite(0)
	return g.Conn.Write(p)
}

// armWrite moves the write deadline, unless it is good enough as it is: moving it costs more
// than looking. It may fire an eighth late.
func (g *Gate) armWrite(extra time.Duration) {
	gap := g.cfg.WriteGap
	if gap <= 0 {
		return
	}
	gap += extra
	now := time.Now()
	if left := g.writeArmed.Sub(now); left < gap || left > gap+gap/8 {
		g.writeArmed = now.Add(gap + gap/8)
		g.Conn.SetWriteDeadline(g.writeArmed)
	}
}

// SetReadDeadline is for the server. The Gate's own deadlines stand beside it.
func (g *Gate) SetReadDeadline(t time.Time) error { return g.deadline.set(t) }

// SetWriteDeadline is for the server, which clears it after each request; gaps are the Gate's matter.
func (g *Gate) SetWriteDeadline(t time.Time) error {
	if t.IsZero() && g.cfg.WriteGap > 0 {
		return nil
	}
	g.writeArmed = t
	return g.Conn.SetWriteDeadline(t)
}

// SetDeadline sets both.
func (g *Gate) SetDeadline(t time.Time) error {
	if err := g.SetReadDeadline(t); err != nil {
		return err
	}
	return g.SetWriteDeadline(t)
}

// ReadFrom sends what src has. If both are plain TCP the kernel moves the bytes by itself (splice); that
// takes a src which is a *net.TCPConn or an *io.LimitedReader on one.
func (g *Gate) ReadFrom(src io.Reader) (int64, error) {
	limited, ok := src.(*io.LimitedReader)
	tcp, plain := g.Conn.(*net.TCPConn)
	if !ok || !plain {
		return g.copyFrom(src)
	}
	if _, ok := limited.R.(*net.TCPConn); !ok {
		return g.copyFrom(src)
	}
	var total int64
	for limited.N > 0 {
		step := io.LimitedReader{R: limited.R, N: min(limited.N, spliceStep)}
		g.armWrite(time.Duration(spliceStep/spliceRate) * time.Second)
		n, err := tcp.ReadFrom(&step)
		total += n
		limited.N -= n
		if err != nil || step.N > 0 {
			return total, err
		}
	}
	return total, nil
}

func (g *Gate) copyFrom(src io.Reader) (int64, error) {
	buf := copies.Get().(*[copySize]byte)
	defer copies.Put(buf)
	return io.CopyBuffer(onlyWriter{g}, src, buf[:])
}

// onlyWriter hides ReadFrom from io.Copy.
type onlyWriter struct{ io.Writer }
