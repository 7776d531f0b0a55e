// Package exchange is one request and its answer as the L7 policies see them: free of
// net/http, so that a policy is written once and works under every HTTP engine.
//
// An engine reads a request, checks the rules of the wire, fills in an Exchange and hands it on; what
// comes back in Response it writes in the framing of its protocol. Hop-by-hop fields
// and framing (Connection, Transfer-Encoding, Content-Length, …) never are in a Header
// here: the length is a number, and the engine writes them.
//
// An Exchange belongs to one goroutine at a time. It lives as long as the request.
package exchange

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"time"
)

// A Protocol is the version of HTTP that the client speaks.
type Protocol uint8

// The versions that clients can speak.
const (
	HTTP10 Protocol = iota
	HTTP11
	HTTP2
)

// String returns the version as it stands in a request line and in access logs, such as "HTTP/1.1".
func (p Protocol) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	default:
		return "HTTP/2.0"
	}
}

// Unknown is the Length of a body that says only at its end how long it is.
const Unknown int64 = -1

// A Request is what a client asks. The engine has checked it: the method is a
// token, the host is valid, the path is canonical (route.Canonical), and the Header
// has no field that is wrong by RFC 9110.
type Request struct {
	Method    string
	Protocol  Protocol
	Secure    bool   // the client speaks TLS, to us or (as a trusted peer says) to somebody in front of us
	Host      string // in lower case, without the default port; what routes are found by
	Port      string // the port in the Host field, or empty
	RawHost   string // Host as received, which is what backends get by default
	Path      string // canonical: what is matched is what is forwarded
	RawPath   string // as received, for logs and for X-Original-URI
	Query     string // without the question mark, never touched
	HasQuery  bool   // there is a question mark, even if nothing follows
	Header    Header // without hop-by-hop fields, framing and Host
	Length    int64  // of the body: 0 means there is none, Unknown that it ends when it ends
	Body      io.Reader
	Trailer   *Header  // filled in when Body is at its end; nil if there can be none
	Announced []string // the names of fields that the client says will be in Trailer, as far as is known
	Upgrade   string   // the protocol asked for, "websocket" or nothing: no other is ever passed on
	Trailers  bool     // the client takes trailers (TE: trailers)

	Client  netip.AddrPort       // who asks, after PROXY protocol and trusted X-Forwarded-For
	Peer    netip.AddrPort       // the other end of the connection
	Local   netip.AddrPort       // this end of it
	TLS     *tls.ConnectionState // nil in plain text; Secure may be true all the same
	ID      string               // X-Request-ID
	Started time.Time
	Size    int64 // of the head on the wire, in bytes; 0 if not known
}

// A Response is what the client is told. Body may be nil; the engine closes it.
type Response struct {
	Status  int
	Header  Header
	Length  int64 // of the body: Unknown if it ends when it ends
	Body    io.ReadCloser
	Trailer *Header // filled in when Body is at its end; nil if there is none
	Reason  string  // for logs and metrics when the answer is not the backend's own, such as "no-endpoints"
}

// A Target names the rule that an Exchange was routed to.
type Target struct {
	Namespace, Ingress string
	Service, Port      string // of the backend: the port as in the Ingress, a name or a number
	Path               string // of the rule
}

// An Exchange is one request on its way.
type Exchange struct {
	// Context ends when the client has gone or the request has taken too long.
	Context  context.Context
	Request  Request
	Response *Response // nil until somebody has answered
	Target   *Target   // nil when nothing was matched
	Tries    []Try     // what was asked of backends, in order
	User     string    // who basic authentication says it is

	// Affinity is what sticky sessions and hashing go by, put there by a policy:
	// a backend takes the endpoint that it says. See the package balance.
	Affinity string

	// Interim tells the client something before the Response (103); nil if that is not possible.
	Interim func(status int, h Header)

	// Hold is what the handler of the engine keeps with x until its end. Nobody else looks at it.
	Hold any
}

// A Try is one attempt at one endpoint.
type Try struct {
	Endpoint netip.AddrPort
	Status   int           // of the answer; 0 if there was none
	Connect  time.Duration // until the connection stood; 0 if it was kept from before
	Header   time.Duration // until the head of the answer was there
	Total    time.Duration // until the end of the answer's body
	Err      error
}

// Answer makes the response of the proxy itself, with a short text as its body. It replaces any Response.
func (x *Exchange) Answer(status int, reason string) *Response {
	x.Response = &Response{Status: status, Reason: reason}
	return x.Response
}

// Redirect answers with status and the place to go to.
func (x *Exchange) Redirect(status int, location, reason string) {
	x.Answer(status, reason).Header.Set("Location", location)
}

// A Stage is a policy that looks at requests before a backend is asked. It is
// compiled once and used by many requests at the same time.
type Stage interface {
	// Admit lets x pass, perhaps changed, or answers it and returns false.
	Admit(x *Exchange) bool
}

// A Filter is a policy that looks at answers, the proxy's own as well. It may replace
// Body by a reader that changes it.
type Filter interface {
	Apply(x *Exchange)
}
