package wire

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/exchange/exchangetest"
	"github.com/fairlead-project/fairlead/l7/h1"
)

// A script is a Handler made of functions.
type script = exchangetest.Script[Done]

// noTunnels knows none.
type noTunnels struct{ refused bool }

func (n noTunnels) Add(net.Conn) bool { return !n.refused }
func (noTunnels) Remove(net.Conn)     {}

func newServer(h Handler) *Server {
	return New(Config{
		Handler: h, Tunnels: noTunnels{}, Leaving: new(atomic.Bool),
		Active: new(atomic.Int64), Open: new(atomic.Int64), Panics: new(atomic.Uint64),
	})
}

// echo answers with the method, the path and the body, or says what is wrong with them.
func echo(x *exchange.Exchange) {
	text := x.Request.Method + " " + x.Request.RawPath
	if x.Request.Body != nil {
		b, err := io.ReadAll(x.Request.Body)
		if err != nil {
			x.Answer(http.StatusRequestTimeout, "client-body")
			return
		}
		text += " " + string(b)
	}
	respond(x, int64(len(text)), strings.NewReader(text))
}

// respond answers 200 with a body.
func respond(x *exchange.Exchange, length int64, body io.Reader) {
	exchangetest.Respond(x, http.StatusOK, length, body)
}

// timed runs test in a bubble of fake time with the client's end of a connection that is served.
func timed(t *testing.T, cfg *h1.Config, handle func(*exchange.Exchange), test func(t *testing.T, c net.Conn, s *Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(&script{Answer: handle})
		client, server := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() { s.Serve(h1.NewGate(server, cfg)) })
		test(t, client, s)
		client.Close()
		wg.Wait()
		if n := cfg.Stats.Open.Load(); n != 0 {
			t.Errorf("%d connections are counted as open", n)
		}
		time.Sleep(time.Hour) // for those who wait for something; it costs nothing
	})
}
