package policy

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// closing notes that it was closed.
type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

func TestErrorPages(t *testing.T) {
	for _, c := range []struct {
		name     string
		response *exchange.Response
		fields   []string
		replaced bool
	}{
		{"the backend's", backend(404, "raw"), nil, true},
		{"another status", backend(500, "raw"), nil, false},
		{"a good one", backend(200, "raw"), nil, false},
		{"the proxy's own", &exchange.Response{Status: 503, Reason: "no-endpoints"}, nil, true},
		{"a verdict", &exchange.Response{Status: 404, Reason: ReasonAuthExternal}, nil, false},
		{"gRPC", backend(404, "raw"), []string{"Content-Type", "application/grpc"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var question exchange.Header
			e := env(t)
			e.ErrorPage = func(_ *exchange.Exchange, q exchange.Header) (*exchange.Response, error) {
				question = q
				return backend(200, "sorry", "Content-Type", "text/html"), nil
			}
			p := compile(t, Config{Errors: &Errors{Statuses: []int{404, 503}}}, e)
			x := newExchange(t, "GET", "http://a.example/x?y=z", append(c.fields, "Accept", "text/html")...)
			x.Target = &exchange.Target{Namespace: "default", Ingress: "web", Service: "shop", Port: "80"}
			x.Response = c.response
			status := c.response.Status
			body := &closing{Reader: strings.NewReader("raw")}
			x.Response.Body = body
			p.Apply(x)
			if !c.replaced {
				if question != nil || x.Response != c.response {
					t.Error("the answer was replaced")
				}
				return
			}
			diff(t, "status", x.Response.Status, status)
			diff(t, "body", readBody(t, x), "sorry")
			if !body.closed {
				t.Error("the body of the answer that was replaced is open")
			}
			diff(t, "question", lines(question), "X-Code: "+itoa(status)+`
X-Format: text/html
X-Original-URI: /x?y=z
X-Namespace: default
X-Ingress-Name: web
X-Service-Name: shop
X-Service-Port: 80
X-Request-ID: 0123456789abcdef
`)
		})
	}
}

func TestErrorPagesWithoutPage(t *testing.T) {
	for _, err := range []error{nil, errors.New("nobody answers")} {
		e := env(t)
		e.ErrorPage = func(*exchange.Exchange, exchange.Header) (*exchange.Response, error) { return nil, err }
		x := newExchange(t, "GET", "http://a.example/")
		x.Response = backend(404, "raw")
		compile(t, Config{Errors: &Errors{Statuses: []int{404}}}, e).Apply(x)
		diff(t, "body", readBody(t, x), "raw")
		x.Answer(404, "no-route")
		compile(t, Config{Errors: &Errors{Statuses: []int{404}}}, e).Apply(x)
		diff(t, "body", readBody(t, x), "404 Not Found\nno-route\nrequest 0123456789abcdef\n")
	}
}

// TestErrorPagesKeepWhatBelongsToTheStatus makes sure that a client of a backend that asks for a password can still answer.
func TestErrorPagesKeepWhatBelongsToTheStatus(t *testing.T) {
	e := env(t)
	e.ErrorPage = func(*exchange.Exchange, exchange.Header) (*exchange.Response, error) {
		return backend(200, "sorry", "WWW-Authenticate", "Evil", "Allow", "GET"), nil
	}
	x := newExchange(t, "GET", "http://a.example/")
	x.Response = backend(401, "raw", "WWW-Authenticate", "Basic", "Set-Cookie", "a=b")
	compile(t, Config{Errors: &Errors{Statuses: []int{401}}}, e).Apply(x)
	diff(t, "header", lines(x.Response.Header), "WWW-Authenticate: Basic\n")
	diff(t, "status", x.Response.Status, 401)
}
