package wire

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// A framing is how the client knows where the body of an answer ends.
type framing uint8

const (
	bodyless   framing = iota // there is none, whatever the fields say
	sized                     // by its length
	chunked                   // by its chunks
	untilClose                // by the end of the connection
)

// bufferSize is how long an answer may be that is written at once.
const bufferSize = 16 << 10

type buffer [bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// respond sends an answer.
func (s *session) respond(resp *exchange.Response) {
	s.settle(resp)
	s.start()
	s.done.Status = resp.Status
	f := s.framing(resp)
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	out := s.head(buf[:0], resp, f)
	if resp.Body == nil || f == bodyless {
		_, s.done.Err = s.write(out)
		return
	}
	s.done.Out, s.done.Err = s.send(resp, f, out)
}

// write writes some of the answer. If that cannot be the client has gone.
func (s *session) write(b []byte) (int, error) {
	n, err := s.c.gate.Write(b)
	if err != nil && isEnd(err) {
		s.life.cancel()
	}
	return n, err
}

// settle decides whether the connection ends with the answer. The last moment for that is the head.
func (s *session) settle(resp *exchange.Response) {
	if s.closing {
		return
	}
	b := &s.body
	switch left := b.left(); {
	case s.c.server.Leaving.Load(), b.broken.Load():
		s.closing = true
	case !b.unread():
	case s.q.Continue && !s.told100():
		s.closing = true
	case resp.Reason != "" && (left < 0 || left > drained):
		s.closing = true
	}
}

// told100 reports whether the client has been told to send its body.
func (s *session) told100() bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	return s.turn.continued
}

func (s *session) framing(resp *exchange.Response) framing {
	switch {
	case s.q.Method == http.MethodHead, resp.Status == http.StatusNoContent, resp.Status == http.StatusNotModified:
		return bodyless
	case resp.Length >= 0 || resp.Body == nil:
		return sized
	case s.q.Protocol == exchange.HTTP10:
		s.closing = true
		return untilClose
	default:
		return chunked
	}
}

// head appends the status line and the fields.
func (s *session) head(b []byte, resp *exchange.Response, f framing) []byte {
	old := s.q.Protocol == exchange.HTTP10 && s.q.Refused == nil // or it might never have been read
	b = appendStatus(b, old, resp.Status)
	b = appendFields(b, resp.Header)
	if !resp.Header.Has("Date") {
		b = append(b, "Date: "...)
		b = append(b, s.c.server.clock.date(time.Now())...)
		b = append(b, "\r\n"...)
	}
	switch {
	case resp.Status == http.StatusNoContent:
	case f == chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case f == sized, resp.Length > 0, resp.Length == 0 && s.q.Method == http.MethodHead && resp.Status != http.StatusNotModified && resp.Reason == "":
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, max(resp.Length, 0), 10), "\r\n"...)
	}
	switch {
	case s.closing && !old:
		b = append(b, "Connection: close\r\n"...)
	case !s.closing && old:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	return append(b, "\r\n"...)
}

func appendStatus(b []byte, old bool, status int) []byte {
	if old {
		b = append(b, "HTTP/1.0 "...)
	} else {
		b = append(b, "HTTP/1.1 "...)
	}
	b = append(strconv.AppendInt(b, int64(status), 10), ' ')
	text := http.StatusText(status)
	if text == "" {
		text = "Status " + strconv.Itoa(status)
	}
	return append(append(b, text...), "\r\n"...)
}

// appendFields appends fields but for those of one hop, which are ours to write. What is no field by RFC 9110, whoever has put
// it there, is left out.
func appendFields(b []byte, h exchange.Header) []byte {
	start, lines := len(b), 0
	for i := range h {
		f := &h[i]
		if h1.HopByHop(f.Name) || !h1.ValidToken(f.Name) {
			continue
		}
		b = append(b, f.Name...)
		b = append(b, ": "...)
		b = append(b, f.Value...)
		b = append(b, "\r\n"...)
		lines++
	}
	if added := b[start:]; bytes.Count(added, cr) == lines && bytes.Count(added, lf) == lines {
		return b
	}
	return appendFields(b[:start], oneLiners(h))
}

var cr, lf = []byte("\r"), []byte("\n")

// oneLiners returns the fields whose values are of one line.
func oneLiners(h exchange.Header) exchange.Header {
	out := h.Clone()
	out.DelFunc(func(f exchange.Field) bool { return strings.ContainsAny(f.Value, "\r\n") })
	return out
}

// told is Exchange.Interim.
func (s *session) told(status int, h exchange.Header) {
	if s.q.Protocol == exchange.HTTP10 {
		return
	}
	b := appendStatus(nil, false, status)
	b = append(appendFields(b, h), "\r\n"...)
	s.turn.Lock()
	defer s.turn.Unlock()
	if !s.turn.begun {
		_, _ = s.c.gate.Write(b) // if it fails, the answer does, too
	}
}

// join sends 101 and lets the Handler join client and backend.
func (s *session) join(resp *exchange.Response) {
	if s.q.Upgrade == "" {
		panic(fmt.Sprintf("an answer with status %d to a request that asks for no upgrade", resp.Status))
	}
	c := s.c
	c.unwatch()
	conn, early, err := c.gate.Release()
	if err != nil {
		s.done.Err, s.closing = err, true
		return
	}
	s.start()
	c.taken, s.done.Status = true, resp.Status
	server := c.server
	server.remove(c)
	defer conn.Close()
	if !server.Tunnels.Add(conn) {
		s.done.Err = net.ErrClosed
		return
	}
	defer server.Tunnels.Remove(conn)
	server.Open.Add(1)
	defer server.Open.Add(-1)
	b := append([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "), s.q.Upgrade...)
	b = append(appendFields(append(b, "\r\n"...), resp.Header), "\r\n"...)
	if _, s.done.Err = conn.Write(b); s.done.Err != nil {
		return
	}
	s.done.In, s.done.Out, s.done.Err = server.Handler.Tunnel(&s.x, conn, early)
}
