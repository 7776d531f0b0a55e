package h1

import "strconv"

// Chunks follows the framing of a chunked body as its bytes go by. It holds none of the
// data: the owner asks Next to eat framing, then moves Left bytes of data in whatever way it likes and
// says so with Took.
type Chunks struct {
	limits  Limits
	state   chunkState
	digits  int
	left    int64
	ext     int
	trailer []byte
}

type chunkState uint8

const (
	chunkSize    chunkState = iota // at the digits
	chunkExt                       // after them, up to the CR
	chunkSizeLF                    // the CR has been there
	chunkData                      // left bytes
	chunkDataCR                    // the CR after them
	chunkDataLF                    // and the LF
	chunkTrailer                   // at the start of a trailer line
	chunkField                     // inside one
	chunkEndLF                     // the CR of the last, empty line has been there
	chunkDone
)

// NewChunks starts at the first chunk.
func NewChunks(l Limits) Chunks { return Chunks{limits: l.orDefaults()} }

// Left returns how many bytes of data come next. It is 0 where framing does, and at the end.
func (c *Chunks) Left() int64 {
	if c.state != chunkData {
		return 0 // the size may be known in part
	}
	return c.left
}

// Done reports whether the body and its trailers are over.
func (c *Chunks) Done() bool { return c.state == chunkDone }

// Took says that n bytes of data have gone by.
func (c *Chunks) Took(n int64) {
	if c.left -= n; c.left == 0 {
		c.state = chunkDataCR
	}
}

// Trailer returns the lines of the trailer section, for ParseTrailer.
func (c *Chunks) Trailer() []byte { return c.trailer }

// Next eats framing from b and returns how many bytes it was. It stops where data
// begin, at the end of the body, or where b ends. The error is an *Error.
func (c *Chunks) Next(b []byte) (int, error) {
	for i, ch := range b {
		if c.state == chunkData || c.state == chunkDone {
			return i, nil
		}
		if err := c.step(ch); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func (c *Chunks) step(ch byte) *Error {
	switch c.state {
	case chunkSize:
		return c.size(ch)
	case chunkExt:
		return c.extension(ch)
	case chunkSizeLF:
		c.digits = 0
		if c.state = chunkData; c.left == 0 {
			c.state = chunkTrailer
		}
		return want(ch, '\n')
	case chunkDataCR:
		c.state = chunkDataLF
		return want(ch, '\r')
	case chunkDataLF:
		c.state = chunkSize
		return want(ch, '\n')
	case chunkEndLF:
		c.state = chunkDone
		return want(ch, '\n')
	default:
		return c.fields(ch)
	}
}

func want(ch, w byte) *Error {
	if ch != w {
		return errChunk
	}
	return nil
}

func (c *Chunks) size(ch byte) *Error {
	v := unhex(ch)
	switch {
	case v < 0 && c.digits == 0:
		return errChunkSize
	case ch == '\r':
		c.state = chunkSizeLF
		return nil
	case ch == ';':
		c.state = chunkExt
		return c.extension(ch)
	case v < 0:
		return errChunkSize
	}
	c.digits++
	if c.digits > 16 || c.left > 1<<58 {
		return errChunkSize
	}
	c.left = c.left<<4 | int64(v)
	return nil
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// extension skips what nobody uses, within bounds: it would be a channel past the limits on heads.
func (c *Chunks) extension(ch byte) *Error {
	if ch == '\r' {
		c.state = chunkSizeLF
		return nil
	}
	if c.ext++; c.ext > c.limits.Chunk || classes[ch]&valueByte == 0 {
		return errChunkExt
	}
	return nil
}

func (c *Chunks) fields(ch byte) *Error {
	if c.state == chunkTrailer && ch == '\r' {
		c.state = chunkEndLF
		return nil
	}
	if len(c.trailer) >= c.limits.Trailers {
		return errLongTrailer
	}
	c.trailer = append(c.trailer, ch)
	c.state = chunkField
	if n := len(c.trailer); ch == '\n' {
		if n < 2 || c.trailer[n-2] != '\r' {
			return errTrailer
		}
		c.state = chunkTrailer
	}
	return nil
}

// AppendChunk appends the line before a chunk of n bytes. The data and a CR LF follow; the
// last chunk has none and is written as LastChunk.
func AppendChunk(b []byte, n int64) []byte {
	return append(strconv.AppendInt(b, n, 16), "\r\n"...)
}

// LastChunk ends a chunked body without trailers.
const LastChunk = "0\r\n\r\n"
