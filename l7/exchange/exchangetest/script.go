package exchangetest

import (
	"io"
	"net"
	"slices"
	"sync"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A Script is a handler made of functions. D is what a server says of the end of an exchange.
type Script[D any] struct {
	Answer   func(*exchange.Exchange)            // required, if something is asked
	TunnelTo func(client net.Conn, early []byte) // required, if there are tunnels; the client is closed after it

	mu   sync.Mutex
	done []D
}

// Handle answers what has no answer yet.
func (s *Script[D]) Handle(x *exchange.Exchange) {
	if x.Response == nil {
		s.Answer(x)
	}
}

// Tunnel counts nothing but what came early.
func (s *Script[D]) Tunnel(_ *exchange.Exchange, client net.Conn, early []byte) (in, out int64, err error) {
	defer client.Close()
	s.TunnelTo(client, early)
	return int64(len(early)), 0, nil
}

// Done notes d. It is safe for concurrent use.
func (s *Script[D]) Done(_ *exchange.Exchange, d D) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, d)
}

// Ended returns what Done was told so far. It is safe for concurrent use.
func (s *Script[D]) Ended() []D {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.done)
}

// Respond answers with a body; nil is none.
func Respond(x *exchange.Exchange, status int, length int64, body io.Reader, fields ...exchange.Field) {
	x.Response = &exchange.Response{Status: status, Header: fields, Length: length}
	if body != nil {
		x.Response.Body = io.NopCloser(body)
	}
}
