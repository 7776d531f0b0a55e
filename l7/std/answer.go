package std

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"sync"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// answer sends the Response.
func (s *session) answer() {
	resp := s.x.Response
	if resp == nil {
		panic(errNoAnswer)
	}
	if resp.Status == http.StatusSwitchingProtocols {
		s.join(resp)
		return
	}
	s.wrote = true
	s.head(resp)
	if resp.Body == nil || bodyless(s.x.Request.Method, resp.Status) {
		return
	}
	s.done.Out, s.done.Err = s.send(resp)
	if s.done.Err == nil && resp.Trailer != nil && (s.x.Request.Trailers || s.q == nil) {
		s.trailer(*resp.Trailer)
	}
}

// head sends the status and the fields.
func (s *session) head(resp *exchange.Response) {
	h := s.w.Header()
	values := make([]string, len(resp.Header)+1) // one piece of memory for all of them
	for i := range resp.Header {
		f := &resp.Header[i]
		if h1.HopByHop(f.Name) {
			continue
		}
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		if old := h[name]; old != nil {
			h[name] = append(old, f.Value)
			continue
		}
		values[i] = f.Value
		h[name] = values[i : i+1 : i+1]
	}
	if s.engine.leaving.Load() {
		h["Connection"] = []string{"close"} // HTTP/2 says it by a GOAWAY
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // it is not ours to guess
	}
	if s.ending(resp) {
		h["Connection"] = []string{"close"}
	}
	switch {
	case resp.Status == http.StatusNoContent || resp.Length == exchange.Unknown:
	case resp.Length > 0 || resp.Status != http.StatusNotModified && (s.x.Request.Method != http.MethodHead || resp.Reason == ""):
		last := values[len(values)-1:]
		last[0] = length(resp.Length)
		h["Content-Length"] = last
	}
	s.done.Status = resp.Status
	s.w.WriteHeader(resp.Status)
}

func (s *session) trailer(t exchange.Header) {
	h := s.w.Header()
	for i := range t {
		if h1.TrailerAllowed(t[i].Name) {
			h.Add(http.TrailerPrefix+textproto.CanonicalMIMEHeaderKey(t[i].Name), t[i].Value)
		}
	}
}

const streamSize = 32 << 10

var streams = sync.Pool{New: func() any { return new([streamSize]byte) }}

// send sends the body, each piece as soon as it is there, and returns how many bytes of it there were.
func (s *session) send(resp *exchange.Response) (int64, error) {
	p := &pieces{session: s, left: resp.Length}
	p.flusher, _ = s.w.(http.Flusher)
	p.source, _ = resp.Body.(interface{ Buffered() int })
	if p.flusher != nil && p.source != nil && p.source.Buffered() == 0 {
		p.flusher.Flush() // the head need not wait for what may be long in coming
	}
	var err error
	if to, ok := resp.Body.(io.WriterTo); ok && resp.Length != exchange.Unknown {
		_, err = to.WriteTo(p)
	} else {
		buf := streams.Get().(*[streamSize]byte)
		defer streams.Put(buf)
		_, err = io.CopyBuffer(writerOnly{p}, readerOnly{resp.Body}, buf[:])
	}
	if err == nil && p.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return p.total, err
}

type (
	writerOnly struct{ io.Writer }
	readerOnly struct{ io.Reader }
)

// pieces is where the body of an answer goes.
type pieces struct {
	session *session
	flusher http.Flusher
	source  interface{ Buffered() int } // nil: it does not say whether there is more at once
	left    int64                       // less than 0: unknown
	total   int64
}

// Write writes p, and sends it unless more is to follow at once.
func (p *pieces) Write(b []byte) (int, error) {
	s := p.session
	s.writes.begin()
	defer s.writes.end()
	n, err := s.w.Write(b)
	p.took(int64(n))
	if err == nil && p.left != 0 && p.flusher != nil && (p.source == nil || p.source.Buffered() == 0) {
		p.flusher.Flush()
	}
	return n, err
}

// ReadFrom lets the server have the kernel move the bytes, if it can.
func (p *pieces) ReadFrom(r io.Reader) (int64, error) {
	to, ok := p.session.w.(io.ReaderFrom)
	if !ok {
		return io.Copy(writerOnly{p}, r)
	}
	n, err := to.ReadFrom(r)
	p.took(n)
	return n, err
}

func (p *pieces) took(n int64) {
	p.total += n
	if p.left > 0 {
		p.left = max(0, p.left-n)
	}
}

// join sends 101 and lets the Handler join client and backend.
func (s *session) join(resp *exchange.Response) {
	if s.q == nil || s.x.Request.Upgrade == "" {
		panic(fmt.Sprintf("an answer with status %d to a request that asks for no upgrade", resp.Status))
	}
	if c, ok := s.r.Context().Value(connectionKey{}).(*connection); ok {
		defer c.end()
	}
	conn, early, err := h1.Hijack(s.w)
	if err != nil {
		s.done.Err = err
		return
	}
	s.wrote, s.done.Status = true, resp.Status
	e := s.engine
	if !e.tunnels.Add(conn) {
		s.done.Err = errors.Join(net.ErrClosed, conn.Close())
		return
	}
	defer e.tunnels.Remove(conn)
	e.stats.Tunnels.Add(1)
	defer e.stats.Tunnels.Add(-1)
	if s.done.Err = switching(conn, s.x.Request.Upgrade, resp.Header); s.done.Err != nil {
		conn.Close()
		return
	}
	s.done.In, s.done.Out, s.done.Err = e.cfg.Handler.Tunnel(&s.x, conn, early)
}

// switching writes the head of a 101.
func switching(conn net.Conn, protocol string, h exchange.Header) error {
	w := bufio.NewWriterSize(conn, 2048)
	fmt.Fprintf(w, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n", protocol)
	for i := range h {
		if !h1.HopByHop(h[i].Name) {
			fmt.Fprintf(w, "%s: %s\r\n", h[i].Name, h[i].Value)
		}
	}
	w.WriteString("\r\n")
	return w.Flush()
}
