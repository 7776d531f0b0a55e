package policy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/route"
)

// Forwarding is what backends are told about clients, and whose word counts about them. The zero value trusts nobody.
type Forwarding struct {
	Trust     []netip.Prefix // proxies in front of this one
	Source    string         // the field that says who asked them; X-Forwarded-For if empty
	Append    bool           // X-Forwarded-For has the whole way, not the client alone
	Forwarded bool           // RFC 7239's field is read, where there is no Source, and written
	Sample    float64        // the share of requests without a traceparent that get one, marked as sampled; 0 to 1
}

// A Forwarder is a compiled Forwarding. It is safe for concurrent use.
type Forwarder struct {
	trusted   *prefixSet
	source    string
	appends   bool
	forwarded bool
	sample    float64
}

// NewForwarder compiles c.
func NewForwarder(c Forwarding) (*Forwarder, error) {
	var errs []error
	source := cmp.Or(c.Source, "X-Forwarded-For")
	if !httpguts.ValidHeaderFieldName(source) || connection(source) {
		errs = append(errs, fmt.Errorf("the field %q cannot say who the client is", source))
	}
	for _, p := range c.Trust {
		if !p.IsValid() {
			errs = append(errs, errors.New("a trusted prefix is not valid"))
		}
	}
	if !(c.Sample >= 0 && c.Sample <= 1) {
		errs = append(errs, fmt.Errorf("the sampled share %v is not between 0 and 1", c.Sample))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("forwarding fields: %w", err)
	}
	return &Forwarder{
		trusted: newPrefixSet(c.Trust), source: source, appends: c.Append, forwarded: c.Forwarded, sample: c.Sample,
	}, nil
}

// Identify finds out who asks and writes that into x: Client, Secure, RawHost, Port and ID. It starts from x.Request.Client, if
// PROXY protocol has said so, and else from the Peer. What it returns is for Forward.
func (f *Forwarder) Identify(x *exchange.Exchange) Identity {
	r := &x.Request
	peer := r.Client
	if !peer.IsValid() {
		peer = r.Peer
	}
	id := f.Resolve(peer, r.Header)
	r.Client = id.Client
	if id.Scheme != "" {
		r.Secure = id.Scheme == "https"
	}
	if id.Host != "" {
		r.RawHost = id.Host
		_, r.Port, _ = route.ParseHost(id.Host) // Resolve has looked at it
	}
	if id.Port != "" {
		r.Port = id.Port
	}
	r.ID = requestID(r.Header)
	return id
}

// requestID is the one X-Request-ID of h, if it is fit for logs, and else a new one in the form of nginx.
func requestID(h exchange.Header) string {
	id, n := "", 0
	for i := range h {
		if len(h[i].Name) == len("X-Request-ID") && strings.EqualFold(h[i].Name, "X-Request-ID") {
			id, n = h[i].Value, n+1
		}
	}
	if n == 1 && len(id) <= 128 && id != "" && strings.Trim(id, idBytes) == "" {
		return id
	}
	return randomHex(16)
}

// idBytes is what a request's ID may be made of.
const idBytes = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_.~+/=:@"

// randomHex returns n random bytes, a multiple of eight, in hexadecimal digits. They are not secret.
func randomHex(n int) string {
	const hex = "0123456789abcdef"
	b := make([]byte, 2*n)
	for i := 0; i < len(b); i += 16 {
		v := rand.Uint64()
		for j := range 16 {
			b[i+j] = hex[v>>(4*j)&15]
		}
	}
	return string(b)
}

// Forward removes forwarding fields that nobody trusted has written, from the header and, once it is there, the trailer, and sets ours.
// Spellings with "_" count too, since backends may not tell them from those with "-". Then backends get
//
//	X-Real-IP, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Port, X-Forwarded-Proto, X-Request-ID
//
// and with nginx, also what applications behind ingress-nginx know: X-Forwarded-Scheme, X-Scheme, and what the client itself had
// written, X-Original-Forwarded-For and X-Original-Forwarded-Host.
func (f *Forwarder) Forward(x *exchange.Exchange, id Identity, nginx bool) {
	h := &x.Request.Header
	var received, receivedHost string
	if nginx || f.appends {
		received = strings.Join(h.Values("X-Forwarded-For"), ", ")
		receivedHost = h.Get("X-Forwarded-Host")
	}
	h.DelFunc(func(field exchange.Field) bool { return f.forged(field.Name, id.Trusted) })
	guardTrailer(x, func(field exchange.Field) bool { return f.forged(field.Name, false) || notInTrailer(field.Name) })

	addr, host, proto := clientAddr(x), cmp.Or(x.Request.RawHost, x.Request.Host), scheme(x)
	way := addr
	if f.appends && id.Trusted && received != "" {
		way = received + ", " + id.Peer.Addr().String()
	}
	set(h, "X-Request-ID", x.Request.ID)
	set(h, "X-Real-IP", addr)
	set(h, "X-Forwarded-For", way)
	set(h, "X-Forwarded-Host", host)
	h.Add("X-Forwarded-Port", port(x))
	h.Add("X-Forwarded-Proto", proto)
	if nginx {
		h.Add("X-Forwarded-Scheme", proto)
		h.Add("X-Scheme", proto)
		set(h, "X-Original-Forwarded-For", received)
		set(h, "X-Original-Forwarded-Host", receivedHost)
	}
	if f.forwarded {
		h.Add("Forwarded", forwardedValue(client(x), host, proto))
	}
	f.trace(h)
}

// forged reports whether a field is not to be passed on: those that say who a client is or which way it came, unless a trusted
// proxy says so, those that Forward sets itself, and Proxy, which CGI takes for a setting (CVE-2016-5385).
func (f *Forwarder) forged(name string, trusted bool) bool {
	if len(name) < 5 {
		return false
	}
	switch fold(name[0]) {
	case 'x':
	case 'f':
		return same(name, "Forwarded")
	case 'p':
		return same(name, "Proxy")
	case 's':
		return begins(name, "Ssl-Client-") && (!trusted || strings.IndexByte(name, '_') >= 0)
	default:
		return !trusted && same(name, f.source)
	}
	switch {
	case same(name, "X-Real-IP"), same(name, "X-Scheme"), same(name, "X-Request-ID"), begins(name, "X-Original-Forwarded-"),
		same(name, "X-Forwarded-For"), same(name, "X-Forwarded-Host"), same(name, "X-Forwarded-Port"),
		same(name, "X-Forwarded-Proto"), same(name, "X-Forwarded-Scheme"):
		return true
	case begins(name, "X-Forwarded-"), begins(name, "X-Original-"), same(name, f.source):
		return !trusted || strings.IndexByte(name, '_') >= 0
	}
	return false
}

// notInTrailer reports whether a field may not come after the body: those on framing, routing, authentication and cookies,
// which somebody has acted upon by then (RFC 9110, 6.5.1).
func notInTrailer(name string) bool {
	if connection(name) || begins(name, "Content-") || begins(name, "Proxy-") || begins(name, "If-") || begins(name, "X-Auth-") {
		return true
	}
	for _, n := range [...]string{
		"Authorization", "Cookie", "Set-Cookie", "Set-Cookie2", "WWW-Authenticate", "Host", "Cache-Control", "Expires", "Max-Forwards",
		"Pragma", "Range", "TE", "Age", "Date", "Location", "Retry-After", "Vary", "Warning", "Accept-Encoding", "Transfer-Encoding",
		"Traceparent", "Tracestate",
	} {
		if same(name, n) {
			return true
		}
	}
	return false
}

// CleanTrailer removes from a trailer what may not stand in one, see Forward. Engines call it on the trailers of answers too.
func CleanTrailer(h *exchange.Header) {
	var f Forwarder
	h.DelFunc(func(field exchange.Field) bool { return f.forged(field.Name, false) || notInTrailer(field.Name) })
}

// guardTrailer removes fields from the request's trailer once the body is at its end. Requests without a trailer
// cost nothing.
func guardTrailer(x *exchange.Exchange, forged func(exchange.Field) bool) {
	if x.Request.Trailer != nil && x.Request.Body != nil {
		x.Request.Body = &trailerGuard{Reader: x.Request.Body, trailer: x.Request.Trailer, forged: forged}
	}
}

type trailerGuard struct {
	io.Reader
	trailer *exchange.Header
	forged  func(exchange.Field) bool
}

func (g *trailerGuard) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	if err == io.EOF {
		g.trailer.DelFunc(g.forged)
	}
	return n, err
}
