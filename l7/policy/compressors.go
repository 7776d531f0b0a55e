package policy

import (
	"bytes"
	"io"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
)

// The highest levels.
const (
	maxGzip   = 9
	maxBrotli = 11
)

// compressBuffer is how much of a body is read at once.
const compressBuffer = 32 << 10

// compressors keeps the writers that are not in use, by level: they are large. It is safe for concurrent use.
type compressors struct {
	gzip   [maxGzip + 1]sync.Pool
	brotli [maxBrotli + 1]sync.Pool
	bytes  sync.Pool
}

// A resettable compresses what is written to it.
type resettable interface {
	io.Writer
	Flush() error
	Close() error
	Reset(io.Writer)
}

func newCompressors() *compressors {
	c := &compressors{}
	for level := range c.gzip {
		c.gzip[level].New = func() any {
			// The error is for levels that do not exist.
			w, _ := gzip.NewWriterLevel(io.Discard, level)
			return w
		}
	}
	for level := range c.brotli {
		c.brotli[level].New = func() any { return brotli.NewWriterLevel(io.Discard, level) }
	}
	c.bytes.New = func() any { return &compressed{in: make([]byte, compressBuffer)} }
	return c
}

// reader returns body compressed. Closing it closes body.
func (c *compressors) reader(body io.ReadCloser, encoding string, level int) io.ReadCloser {
	pool := &c.gzip[level]
	if encoding == "br" {
		pool = &c.brotli[level]
	}
	z := c.bytes.Get().(*compressed)
	z.writer = pool.Get().(resettable)
	z.out.Reset()
	z.writer.Reset(&z.out)
	return &compressedBody{z: z, body: body, writers: pool, buffers: &c.bytes}
}

// compressed is a writer and its buffers.
type compressed struct {
	writer resettable
	in     []byte
	out    bytes.Buffer
}

// A compressedBody reads a body and gives it out compressed. It belongs to one goroutine.
type compressedBody struct {
	z                *compressed // nil when given back
	body             io.ReadCloser
	err              error // of body; io.EOF once all is compressed
	writers, buffers *sync.Pool
}

// Read returns what is compressed so far as soon as the body pauses: when a read does not fill the buffer, nothing more is there, and the
// next one may take as long as the backend likes. Bodies that know of bytes that have come already may say so by
// a method Buffered() int.
func (b *compressedBody) Read(p []byte) (int, error) {
	for b.z != nil && b.z.out.Len() == 0 && b.err == nil {
		b.fill()
	}
	if b.z == nil || b.z.out.Len() == 0 {
		err := b.err
		if err == nil {
			err = io.ErrClosedPipe
		}
		b.giveBack()
		return 0, err
	}
	return b.z.out.Read(p)
}

// fill compresses one piece of the body.
func (b *compressedBody) fill() {
	z := b.z
	n, err := b.body.Read(z.in)
	if n > 0 {
		// Writing to a bytes.Buffer does not fail.
		_, _ = z.writer.Write(z.in[:n])
	}
	switch {
	case err == io.EOF:
		_ = z.writer.Close()
		b.err = io.EOF
	case err != nil:
		// What is in the writer still is thrown away: without its end, the client sees that something is missing.
		b.err = err
	case n > 0 && n < len(z.in) && !b.more():
		_ = z.writer.Flush()
	}
}

// more reports whether the next read is known not to wait.
func (b *compressedBody) more() bool {
	buffered, ok := b.body.(interface{ Buffered() int })
	return ok && buffered.Buffered() > 0
}

// Close closes the body.
func (b *compressedBody) Close() error {
	if b.err == nil {
		b.err = io.ErrClosedPipe
	}
	b.giveBack()
	return b.body.Close()
}

// giveBack returns the writer and the buffers, once.
func (b *compressedBody) giveBack() {
	if b.z == nil {
		return
	}
	z := b.z
	b.z = nil
	z.writer.Reset(io.Discard)
	b.writers.Put(z.writer)
	z.writer = nil
	if z.out.Cap() <= 4*compressBuffer {
		b.buffers.Put(z)
	}
}
