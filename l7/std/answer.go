package std

import (
	"bufio"
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
	if resp.Length == exchange.Unknown {
		s.done.Out, s.done.Err = s.stream(resp.Body)
	} else {
		s.done.Out, s.done.Err = io.Copy(s.w, resp.Body)
		if s.done.Err == nil && s.done.Out < resp.Length {
			s.done.Err = io.ErrUnexpectedEOF
		}
	}
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
	if s.engine.leaving.Load() && s.q != nil {
		h["Connection"] = []string{"close"}
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // it is not ours to guess
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

// stream sends a body that ends when it ends: each piece as soon as it is there.
func (s *session) stream(body io.Reader) (total int64, err error) {
	buf := streams.Get().(*[streamSize]byte)
	defer streams.Put(buf)
	flush, _ := s.w.(http.Flusher)
	for {
		n, err := body.Read(buf[:])
		if n > 0 {
			m, werr := s.w.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		if n > 0 && flush != nil {
			flush.Flush()
		}
	}
}

// join sends 101 and lets the Handler join client and backend.
func (s *session) join(resp *exchange.Response) {
	if s.q == nil || s.x.Request.Upgrade == "" {
		panic(fmt.Sprintf("an answer with status %d to a request that asks for no upgrade", resp.Status))
	}
	conn, early, err := h1.Hijack(s.w)
	if err != nil {
		s.done.Err = err
		return
	}
	s.wrote, s.done.Status = true, resp.Status
	e := s.engine
	e.stats.Tunnels.Add(1)
	defer e.stats.Tunnels.Add(-1)
	e.tunnels.Add(1)
	defer e.tunnels.Done()
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
