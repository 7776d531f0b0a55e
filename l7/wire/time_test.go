package wire

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/exchange/exchangetest"
	"github.com/fairlead-project/fairlead/l7/h1"
)

const (
	get       = exchangetest.Get
	getAnswer = "200 GET /a"
)

// echoes is a server of echo.
func echoes() exchangetest.Echo {
	return exchangetest.Echo{
		Timed: func(t *testing.T, takes time.Duration, test func(*testing.T, net.Conn)) {
			t.Helper()
			handle := func(x *exchange.Exchange) {
				time.Sleep(takes)
				echo(x)
			}
			timed(t, h1.Defaults(), handle, func(t *testing.T, c net.Conn, _ *Server) { test(t, c) })
		},
		Says: func(method, path, body string) string {
			return strings.TrimSpace("200 " + method + " " + path + " " + body)
		},
		Late: func(string) string { return "408" },
	}
}

func TestTooSlow(t *testing.T)  { echoes().TooSlow(t) }
func TestPatience(t *testing.T) { echoes().Patience(t) }
func TestIdle(t *testing.T)     { echoes().Idle(t) }

// TestDeafClient does not read what it has asked for.
func TestDeafClient(t *testing.T) {
	cfg := h1.Defaults()
	big := func(x *exchange.Exchange) { respond(x, 1<<20, strings.NewReader(strings.Repeat("a", 1<<20))) }
	var s *script
	timed(t, cfg, big, func(t *testing.T, c net.Conn, server *Server) {
		s = server.Handler.(*script)
		io.WriteString(c, get)
		began := time.Now()
		for len(s.Ended()) == 0 {
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took < cfg.WriteGap || took > cfg.WriteGap*5/4 {
			t.Errorf("after %v, want about %v", took, cfg.WriteGap)
		}
	})
	var ne net.Error
	if err := s.Ended()[0].Err; !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("error %v, want a timeout", err)
	}
}

// TestGone has a client leave while its request is being answered, at once or after a while, with and without a body that has been read, and
// with another request that has come early, behind which nobody looks.
func TestGone(t *testing.T) {
	post := "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
	for _, c := range []struct {
		name, send string
		after      time.Duration
		heard      bool
	}{
		{"at once", get, 0, true},
		{"after a while", get, time.Minute, true},
		{"after its last request", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", time.Second, true},
		{"after a body", post, time.Second, true},
		{"in a body", post[:len(post)-1], time.Second, true},
		{"asking for another protocol", "GET /a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", time.Second, true},
		{"with another request", get + get, time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ended, called, done bool
			var took time.Duration
			handle := func(x *exchange.Exchange) {
				if x.Request.Body != nil {
					io.Copy(io.Discard, x.Request.Body)
				}
				fired, late := make(chan struct{}), make(chan struct{})
				began := time.Now()
				stop := context.AfterFunc(x.Context, func() { close(fired) })
				context.AfterFunc(x.Context, func() { close(late) })
				select {
				case <-fired:
					<-late
					<-x.Context.Done()
					called, done, ended = true, !stop(), x.Context.Err() != nil
				case <-time.After(5 * time.Minute):
				}
				took = time.Since(began)
				x.Answer(499, "gone")
			}
			timed(t, h1.Defaults(), handle, func(t *testing.T, conn net.Conn, s *Server) {
				io.WriteString(conn, c.send)
				time.Sleep(c.after)
				conn.Close()
				for len(s.Handler.(*script).Ended()) == 0 {
					time.Sleep(time.Second)
				}
			})
			if called != c.heard || done != c.heard || ended != c.heard {
				t.Errorf("heard of it %v, %v, %v, want %v", called, done, ended, c.heard)
			}
			if c.heard && took > c.after+3*patience {
				t.Errorf("heard of it after %v, want %v", took, c.after)
			}
		})
	}
}

// TestWatchedTwice answers many requests on one connection, each of which takes so long that the client is watched. A request that comes
// while it is has to be found afterwards.
func TestWatchedTwice(t *testing.T) {
	handle := func(x *exchange.Exchange) {
		time.Sleep(5 * patience)
		echo(x)
	}
	timed(t, h1.Defaults(), handle, func(t *testing.T, c net.Conn, _ *Server) {
		r := bufio.NewReader(c)
		for i := range 10 {
			go func() {
				io.WriteString(c, get)
				if i%2 == 1 {
					time.Sleep(2 * patience)
					exchangetest.Trickle(c, get, patience/10)
				}
			}()
			for range 1 + i%2 {
				if got := exchangetest.Answer(r); got != getAnswer {
					t.Fatalf("request %d: answer %q", i, got)
				}
			}
		}
	})
}

// TestInterrupt ends the wait for a body from outside, as package upstream does.
func TestInterrupt(t *testing.T) {
	handle := func(x *exchange.Exchange) {
		time.AfterFunc(10*time.Second, x.Request.Body.(interface{ Interrupt() }).Interrupt)
		if _, err := io.ReadAll(x.Request.Body); !errors.Is(err, h1.ErrInterrupted) {
			t.Errorf("error %v, want ErrInterrupted", err)
		}
		respond(x, 4, strings.NewReader("done"))
	}
	timed(t, h1.Defaults(), handle, func(t *testing.T, c net.Conn, _ *Server) { exchangetest.Interrupted(t, c) })
}

// TestShutdown closes connections without a request at once, and waits for the others until it may not any more.
func TestShutdown(t *testing.T) {
	for _, c := range []struct {
		name  string
		send  string
		given time.Duration
		took  time.Duration
		want  string
	}{
		{"new", "", time.Minute, 0, "EOF"},
		{"half a head", "GET /a HT", time.Minute, 30 * time.Second, "408"},
		{"a request", get, time.Minute, 10 * time.Second, getAnswer},
		{"a long request", get, 5 * time.Second, 5 * time.Second, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			handle := func(x *exchange.Exchange) {
				time.Sleep(10 * time.Second)
				echo(x)
			}
			timed(t, h1.Defaults(), handle, func(t *testing.T, conn net.Conn, s *Server) {
				io.WriteString(conn, c.send)
				time.Sleep(time.Millisecond)
				got := make(chan string, 1)
				go func() { got <- exchangetest.Answer(bufio.NewReader(conn)) }()
				ctx, cancel := context.WithTimeout(t.Context(), c.given)
				defer cancel()
				began := time.Now()
				err := s.Shutdown(ctx)
				if took := time.Since(began); took < c.took-time.Second || took > c.took+time.Second || (err != nil) != (c.took == c.given) {
					t.Errorf("Shutdown took %v and returned %v, want %v", took, err, c.took)
				}
				if text := <-got; text != c.want {
					t.Errorf("answer %q, want %q", text, c.want)
				}
			})
		})
	}
}
