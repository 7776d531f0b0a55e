package upstream

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// maxInterim is how many interim answers an endpoint may send before the one that counts.
const maxInterim = 5

// h1 asks over HTTP/1.1.
func (t *trial) h1() (*exchange.Response, *Error) {
	c, err := t.connection()
	if err != nil {
		return nil, err
	}
	reused := c.requests > 0
	c.begin()
	stop := func() bool { return true }
	if a, ok := t.x.Context.(interface{ AfterFunc(func()) func() bool }); ok {
		stop = a.AfterFunc(c.abortFunc)
	} else if t.x.Context.Done() != nil {
		stop = context.AfterFunc(t.x.Context, c.abortFunc)
	}
	s, err := t.send(c)
	if err == nil {
		var head h1.ResponseHead
		if head, err = t.head(c, s); err == nil {
			t.record().Header = time.Since(t.began)
			return t.response(c, &head, s, stop)
		}
		err.Sent = true
	}
	err.Reused = reused
	stop()
	s.explain(t.x.Context, err)
	err.BodyRead = s != nil && s.read.Load()
	c.close()
	s.finish()
	return nil, err
}

// connection takes a kept connection or makes one.
func (t *trial) connection() (*conn, *Error) {
	k := key{addr: t.to.Addr}
	if t.to.Protocol == HTTPS {
		if k.tls = t.to.TLS; k.tls == nil {
			return nil, &Error{Phase: Build, Err: errors.New("HTTPS without TLS settings")}
		}
	}
	e := t.client.endpoint(k)
	if !t.to.Fresh {
		if c := e.take(t.hint()); c != nil {
			t.client.Stats.Reused.Add(1)
			return c, nil
		}
	}
	c, err := e.dial(t.x.Context, t.to.Timeouts.Connect)
	t.record().Connect = time.Since(t.began)
	return c, err
}

func (t *trial) hint() uint16 { return t.x.Request.Peer.Port() }

// head reads the head that counts.
func (t *trial) head(c *conn, s *sender) (h1.ResponseHead, *Error) {
	for i := range maxInterim + 1 {
		head, err := t.oneHead(c, s)
		if err != nil {
			err.Answered = err.Answered || i > 0
			return head, err
		}
		switch {
		case head.Status == 101:
			if up := t.x.Request.Upgrade; up == "" || !strings.EqualFold(up, head.Upgrade) {
				return head, &Error{Phase: Head, Answered: true, Err: errSwitch}
			}
			return head, nil
		case head.Status >= 200:
			return head, nil
		case head.Status == 103 && t.x.Interim != nil:
			t.x.Interim(head.Status, head.Header)
		}
	}
	return h1.ResponseHead{}, &Error{Phase: Head, Answered: true, Err: errInterim}
}

// oneHead waits for a head. The endpoint's time does not run while the request is on its way.
func (t *trial) oneHead(c *conn, s *sender) (h1.ResponseHead, *Error) {
	limits := t.client.cfg.Load().Limits
	if t.to.Head > 0 {
		limits.Head = t.to.Head
	}
	var scan h1.Scan
	for {
		end, err := scan.End(c.buf[c.r:c.w], limits)
		if err != nil {
			return h1.ResponseHead{}, &Error{Phase: Head, Answered: true, Err: err}
		}
		if end > 0 {
			head, err := h1.ParseResponse(c.buf[c.r:c.r+end], limits)
			c.r += end
			if err != nil {
				return head, &Error{Phase: Head, Answered: true, Err: err}
			}
			return head, nil
		}
		busy := s.busy()
		if _, err := c.fill(t.to.Timeouts.Read, limits.Head); err != nil {
			if busy && errors.Is(err, os.ErrDeadlineExceeded) && !c.aborted.Load() {
				continue
			}
			if errors.Is(err, io.EOF) {
				err = errClosed
			}
			return h1.ResponseHead{}, &Error{Phase: Head, Answered: c.r != c.w, Err: err}
		}
	}
}

// response makes of a head what policies work on.
func (t *trial) response(c *conn, h *h1.ResponseHead, s *sender, stop func() bool) (*exchange.Response, *Error) {
	resp := &exchange.Response{Status: h.Status, Header: h.Header, Length: h.Length}
	b := &body{t: *t, c: c, sender: s, stop: stop, keep: !h.Close}
	switch {
	case h.Status == 101:
		b.keep = false
		resp.Length, resp.Body = 0, &tunnel{body: b}
		return resp, nil
	case t.x.Request.Method == "HEAD" || h.Status == 304:
		b.end()
		return resp, nil
	case h.Status == 204 || h.Length == 0:
		resp.Length = 0
		b.end()
		return resp, nil
	case h.Chunked:
		b.kind, b.chunks = chunked, h1.NewChunks(t.client.cfg.Load().Limits)
		resp.Trailer = &b.trailer
	case h.Length > 0:
		b.kind, b.left = sized, h.Length
	default:
		b.kind, b.keep = untilClose, false
	}
	resp.Body = b
	return resp, nil
}
