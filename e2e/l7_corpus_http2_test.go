//go:build linux

package e2e

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/fairlead-project/fairlead/l7/ingress/ingresstest"
	"github.com/fairlead-project/fairlead/service"
)

// checkHTTP2 asks over HTTP/2 what was asked over HTTP/1.1, and wants the same answers. HTTP/2 is offered with TLS only, so what
// the corpus asks in plain text is asked with TLS, save what is about TLS itself. There is one connection for each server name.
func (s *l7Stage) checkHTTP2(t *testing.T, step *ingresstest.Step) (asked int) {
	t.Helper()
	conns := make(map[string]*h2Conn)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for _, r := range step.Requests {
		want, ok := overHTTP2(step, r)
		if !ok {
			continue
		}
		asked++
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		c := conns[host]
		if c == nil {
			c = startH2(t, s.proxy, host)
			conns[host] = c
		}
		got, err := c.ask(r)
		if err != nil { // which ends the connection, and is an answer to what is malformed
			c.Close()
			delete(conns, host)
			if want.Status == http.StatusBadRequest {
				continue
			}
		}
		if err != nil || got != want {
			t.Errorf("line %d: over HTTP/2: request %s\n got %+v (%v)\nwant %+v", r.Line, r.Text, got, err, want)
		}
	}
	return asked
}

// overHTTP2 returns what the answer over HTTP/2 must be, and whether the request can be asked so.
func overHTTP2(step *ingresstest.Step, r ingresstest.Request) (ingresstest.Answer, bool) {
	want := r.Want
	if r.Host == "" {
		return want, false // a request without a host is one of HTTP/1.0
	}
	if r.Secure {
		return want, true
	}
	if slices.ContainsFunc(step.Passthrough, func(e ingresstest.PassthroughExpect) bool { return strings.EqualFold(e.Host, r.Host) }) {
		return want, false // TLS for it does not end here
	}
	if strings.HasPrefix(want.Location, "https:") {
		return want, false // where we are already
	}
	if rest, ok := strings.CutPrefix(want.Location, "http:"); ok {
		want.Location = "https:" + rest
	}
	return want, true
}

// startH2 opens a connection of HTTP/2 for a server name.
func startH2(t *testing.T, p *l7Proxy, name string) *h2Conn {
	t.Helper()
	c := tls.Client(p.raw(t, 443), &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{"h2"}})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != "h2" {
		t.Fatalf("%s: the protocol is %q, want h2", name, got)
	}
	return newH2Conn(t, c)
}

// ask makes a request of the corpus, and returns its answer. After an error the connection is of no use.
func (h *h2Conn) ask(r ingresstest.Request) (ingresstest.Answer, error) {
	fields := []string{":method: " + r.Method, ":scheme: https", ":authority: " + r.Host, ":path: " + r.Target}
	for _, f := range r.Fields {
		fields = append(fields, strings.ToLower(f.Name)+": "+f.Value)
	}
	id, err := h.open(true, fields...)
	if err != nil {
		return ingresstest.Answer{}, err
	}
	for {
		f, err := h.ReadFrame()
		if err != nil {
			return ingresstest.Answer{}, err
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == id && !strings.HasPrefix(f.PseudoValue("status"), "1") {
				return caseAnswer(f)
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return ingresstest.Answer{}, fmt.Errorf("the stream was reset: %v", f.ErrCode)
			}
		case *http2.GoAwayFrame:
			return ingresstest.Answer{}, fmt.Errorf("the connection ends: %v", f.ErrCode)
		}
	}
}

// caseAnswer reads what the head of an answer says, as request does with HTTP/1.1.
func caseAnswer(f *http2.MetaHeadersFrame) (a ingresstest.Answer, err error) {
	if a.Status, err = strconv.Atoi(f.PseudoValue("status")); err != nil {
		return a, err
	}
	for _, h := range f.RegularFields() {
		switch h.Name {
		case "location":
			a.Location = h.Value
		case "x-case-path":
			a.Path = h.Value
		case "x-case-service":
			ns, name, _ := strings.Cut(h.Value, "/")
			a.Backend = service.Name{Namespace: ns, Name: name}
		case "x-case-port":
			n, err := strconv.ParseUint(h.Value, 10, 16)
			if err != nil {
				return a, err
			}
			a.Port = uint16(n)
		}
	}
	return a, nil
}

// checkServed compares the Ingresses that are served, which get a status in a cluster.
func checkServed(t *testing.T, step *ingresstest.Step, listed []string) {
	t.Helper()
	if step.Served == nil {
		return
	}
	got, want := []string{}, []string{}
	for _, name := range listed {
		if !strings.HasPrefix(name, "marker/") { // of the folder, not of the case
			got = append(got, name)
		}
	}
	for _, n := range step.Served {
		want = append(want, n.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("line %d, step %q: Ingresses that are served:\n got %q\nwant %q", step.Line, step.Name, got, want)
	}
}
