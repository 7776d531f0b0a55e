package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// An h2endpoint is net/http's client for one address: few connections, many requests on each.
type h2endpoint struct {
	transport *http.Transport
	used      atomic.Int64
}

func (c *Client) h2endpoint(k key) (*h2endpoint, *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, &Error{Phase: Build, Err: errGone}
	}
	e := c.h2[k]
	if e == nil {
		e = &h2endpoint{transport: c.transport(k)}
		c.h2[k] = e
	}
	e.used.Store(time.Now().UnixNano())
	return e, nil
}

func (e *h2endpoint) end() { e.transport.CloseIdleConnections() }

func (e *h2endpoint) unused(now time.Time) bool {
	return now.Sub(time.Unix(0, e.used.Load())) > forgotten
}

// transport speaks HTTP/2 to one address, whatever a request's URL says.
func (c *Client) transport(k key) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP2(k.tls != nil)
	protocols.SetUnencryptedHTTP2(k.tls == nil)
	t := &http.Transport{
		Protocols: &protocols, DisableCompression: true,
		IdleConnTimeout:        c.cfg.Load().IdleTimeout,
		MaxResponseHeaderBytes: h2MaxHead, // and what the rule says, for each answer
		TLSHandshakeTimeout:    c.cfg.Load().Timeouts.Connect,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second,
			WriteByteTimeout: c.cfg.Load().Timeouts.Write,
		},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c.Stats.Dials.Add(1)
			ctx, cancel := context.WithTimeout(ctx, c.cfg.Load().Timeouts.Connect)
			defer cancel()
			e := endpoint{client: c, key: k}
			conn, err := e.connect(ctx)
			if err != nil {
				c.Stats.DialErrors.Add(1)
				return nil, &Error{Phase: Dial, Err: err}
			}
			return conn, nil
		},
	}
	if k.tls != nil {
		t.TLSClientConfig = k.tls.Clone()
		t.TLSClientConfig.NextProtos = []string{"h2"}
	}
	return t
}

// h2 asks over HTTP/2.
func (t *trial) h2() (*exchange.Response, *Error) {
	k := key{addr: t.to.Addr}
	if t.to.Protocol == GRPCS {
		if k.tls = t.to.TLS; k.tls == nil {
			return nil, &Error{Phase: Build, Err: errors.New("GRPCS without TLS settings")}
		}
	}
	e, err := t.client.h2endpoint(k)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(t.x.Context)
	call := &h2call{trial: *t, cancel: cancel}
	req, err := call.request(ctx, k.tls != nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	call.timer = time.AfterFunc(t.to.Timeouts.Connect+t.to.Timeouts.Read, func() { cancel(errGap) })
	resp, rerr := e.transport.RoundTrip(req)
	if rerr != nil {
		return nil, call.failed(ctx, rerr)
	}
	limit := t.to.Head
	if limit == 0 {
		limit = t.client.cfg.Load().Limits.Head
	}
	if headSize(resp) > limit {
		resp.Body.Close()
		err := call.failed(ctx, errLongHead)
		err.Answered = true
		return nil, err
	}
	t.record().Header = time.Since(t.began)
	return call.response(ctx, resp), nil
}

// h2MaxHead is the room that there is for the head of an answer at most.
const h2MaxHead = 1 << 20

// headSize is how long the head of resp would be in HTTP/1.1, which is what limits are in.
func headSize(resp *http.Response) int {
	n := len("HTTP/1.1 200 OK\r\n\r\n")
	for name, values := range resp.Header {
		for _, v := range values {
			n += len(name) + len(": ") + len(v) + len("\r\n")
		}
	}
	return n
}

// An h2call is one request over HTTP/2 until the end of its answer.
type h2call struct {
	trial
	cancel context.CancelCauseFunc
	timer  *time.Timer
	sent   *h2upload
	facts  h2facts
}

// h2facts is written by the Transport's goroutines.
type h2facts struct {
	wrote, reused atomic.Bool
}

func (h *h2call) request(ctx context.Context, secure bool) (*http.Request, *Error) {
	r := &h.x.Request
	if !h1.ValidToken(r.Method) || !h1.ValidTarget(r.Path) || !validQuery(r.Query) {
		return nil, &Error{Phase: Build, Err: errors.New("the request line would not be valid")}
	}
	host := h.to.Host
	if host == "" {
		host = r.RawHost
	}
	u := &url.URL{Scheme: "http", Host: host, Opaque: r.Path, RawQuery: r.Query, ForceQuery: r.HasQuery}
	if secure {
		u.Scheme = "https"
	}
	if strings.HasPrefix(r.Path, "//") {
		u.Opaque = "//" + host + r.Path
	}
	req := &http.Request{
		Method: r.Method, URL: u, Host: host, Header: h2header(r), ContentLength: r.Length,
		Proto: "HTTP/2.0", ProtoMajor: 2,
	}
	if r.Body != nil && r.Length != 0 {
		h.sent = &h2upload{body: r.Body, gone: make(chan struct{})}
		if seeker, ok := r.Body.(io.Seeker); ok {
			seeker.Seek(0, io.SeekStart)
		}
		req.Body = h.sent
		if r.Trailer != nil {
			req.Trailer = make(http.Header, len(r.Announced))
			for _, name := range r.Announced {
				if h1.TrailerAllowed(name) && h1.ValidToken(name) {
					req.Trailer[textproto.CanonicalMIMEHeaderKey(name)] = nil
				}
			}
			h.sent.ended = func() { addTrailer(req.Trailer, *r.Trailer) }
		}
	}
	return req.WithContext(httptrace.WithClientTrace(ctx, h.trace())), nil
}

// trace notes what only the Transport knows.
func (h *h2call) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			h.facts.reused.Store(i.Reused)
			if !i.Reused {
				h.record().Connect = time.Since(h.began)
			}
		},
		WroteHeaders: func() { h.facts.wrote.Store(true) },
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			if code == 103 && h.x.Interim != nil {
				h.x.Interim(code, fields(header))
			}
			return nil
		},
	}
}

func h2header(r *exchange.Request) http.Header {
	header := make(http.Header, len(r.Header)+2)
	for _, f := range r.Header {
		if !h1.HopByHop(f.Name) {
			header.Add(f.Name, f.Value)
		}
	}
	if r.Trailers {
		header.Set("Te", "trailers")
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = []string{""} // the Transport would put itself there
	}
	return header
}

// addTrailer adds the fields that came after a request's body, in time for the Transport, which looks at them after the
// body's end, announced or not.
func addTrailer(to http.Header, from exchange.Header) {
	for name := range to {
		to[name] = nil // of an earlier try
	}
	for _, f := range from {
		if h1.TrailerAllowed(f.Name) && h1.ValidToken(f.Name) && h1.ValidValue(f.Value) {
			to.Add(f.Name, f.Value)
		}
	}
}

// fields turns a header of net/http's into ours.
func fields(header map[string][]string) exchange.Header {
	out := make(exchange.Header, 0, len(header)+4)
	for name, values := range header {
		if h1.HopByHop(name) {
			continue
		}
		for _, v := range values {
			out = append(out, exchange.Field{Name: name, Value: v})
		}
	}
	return out
}

func (h *h2call) failed(ctx context.Context, err error) *Error {
	h.timer.Stop()
	h.sent.abandon()
	e := &Error{Phase: Head, Err: err, Sent: h.facts.wrote.Load(), Reused: h.facts.reused.Load()}
	e.BodyRead = h.sent.taken()
	if dial, ok := errors.AsType[*Error](err); ok {
		e.Phase, e.Err = dial.Phase, dial.Err
	}
	var tlsErr *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	if errors.As(err, &tlsErr) || errors.As(err, &record) || errors.As(err, &alert) {
		e.Phase = TLS
	}
	if cause := h.sent.cause(); cause != nil {
		e.Phase, e.Err = Request, cause
	}
	e.blame(ctx)
	h.cancel(nil)
	return e
}

func (h *h2call) response(ctx context.Context, resp *http.Response) *exchange.Response {
	out := &exchange.Response{Status: resp.StatusCode, Header: fields(resp.Header), Length: resp.ContentLength}
	b := &h2body{h2call: h, ctx: ctx, resp: resp}
	out.Trailer = &b.trailer
	if resp.Body == http.NoBody || h.x.Request.Method == "HEAD" {
		b.finish(io.EOF)
		return out
	}
	out.Body = b
	h.timer.Reset(h.to.Timeouts.Read)
	return out
}

// An h2body is that of an answer.
type h2body struct {
	*h2call
	ctx     context.Context
	resp    *http.Response
	trailer exchange.Header
	over    bool
	err     error
}

// Read reads; each wait of the endpoint's is bounded. A body that breaks off is an *Error.
func (b *h2body) Read(p []byte) (int, error) {
	if b.over {
		return 0, b.err
	}
	b.timer.Reset(b.to.Timeouts.Read)
	n, err := b.resp.Body.Read(p)
	b.timer.Stop()
	switch {
	case err == io.EOF:
		b.trailer = fields(b.resp.Trailer)
		b.trailer.DelFunc(func(f exchange.Field) bool { return !h1.TrailerAllowed(f.Name) })
		b.finish(io.EOF)
	case err != nil:
		e := &Error{Phase: Body, Sent: true, Answered: true, Err: err}
		e.blame(b.ctx)
		b.record().Err = e
		b.finish(e)
	}
	if err != nil {
		err = b.err
	}
	return n, err
}

func (b *h2body) finish(err error) {
	if b.over {
		return
	}
	b.over, b.err = true, err
	b.timer.Stop()
	b.resp.Body.Close()
	b.cancel(nil)
	b.sent.abandon()
	b.record().Total = time.Since(b.began)
}

// Close ends the request, wherever it is.
func (b *h2body) Close() error {
	b.finish(errBodyClosed)
	return nil
}

// An h2upload is a request's body. The Transport may read it for longer than it asks for; after
// abandon nobody reads from the client any more.
type h2upload struct {
	mu    sync.Mutex // held while reading
	body  io.Reader
	ended func() // nil: the end of the body is the end of the request
	gone  chan struct{}
	once  sync.Once
	any   atomic.Bool
	bad   atomic.Pointer[error]
}

// Read reads from the client.
func (u *h2upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	select {
	case <-u.gone:
		return 0, errBodyClosed
	default:
	}
	n, err := u.body.Read(p)
	if n > 0 {
		u.any.Store(true)
	}
	switch {
	case err == nil:
	case err != io.EOF:
		u.bad.Store(&err)
	case u.ended != nil:
		u.ended()
	}
	return n, err
}

// Close is for the Transport.
func (u *h2upload) Close() error {
	u.once.Do(func() { close(u.gone) })
	return nil
}

// abandon ends reading, and waits for a read that can be interrupted.
func (u *h2upload) abandon() {
	if u == nil {
		return
	}
	u.Close()
	if u.mu.TryLock() {
		u.mu.Unlock()
		return
	}
	if i, ok := u.body.(interrupter); ok {
		i.Interrupt()
		u.mu.Lock()
		defer u.mu.Unlock()
	}
}

func (u *h2upload) taken() bool { return u != nil && u.any.Load() }

func (u *h2upload) cause() error {
	if u == nil {
		return nil
	}
	if p := u.bad.Load(); p != nil {
		return *p
	}
	return nil
}
