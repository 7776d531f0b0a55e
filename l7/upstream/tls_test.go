package upstream_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/l7/upstream"
)

// secure starts a server with TLS whose certificate is for example.com.
func secure(t testing.TB, h2 bool, change func(*tls.Config), handler http.HandlerFunc) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = h2
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = new(tls.Config)
	if change != nil {
		change(s.TLS)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, roots
}

func TestTLS(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Saw", r.TLS.ServerName+" "+r.Proto+" "+strings.Repeat("cert", len(r.TLS.PeerCertificates)))
		w.Header()["Date"] = nil
		w.Header().Set("Content-Type", "x")
		w.Write(b)
	}
	plain, roots := secure(t, true, nil, handler)
	asks, _ := secure(t, true, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, handler)
	own := plain.TLS.Certificates
	cases := []struct {
		name string
		s    *httptest.Server
		o    upstream.TLSOptions
		want string
	}{
		{"trusting", plain, upstream.TLSOptions{}, `HTTP/1.1`},
		{"with a name", plain, upstream.TLSOptions{Name: "other.example"}, `other.example HTTP/1.1`},
		{"verified", plain, upstream.TLSOptions{Verify: true, Roots: roots, Name: "example.com"}, `example.com HTTP/1.1`},
		{"verified without a name", plain, upstream.TLSOptions{Verify: true, Roots: roots}, `HTTP/1.1`},
		{"wrong name", plain, upstream.TLSOptions{Verify: true, Roots: roots, Name: "other.example"}, "tls"},
		{"unknown authority", plain, upstream.TLSOptions{Verify: true, Roots: x509.NewCertPool(), Name: "example.com"}, "tls"},
		{"unknown authority without a name", plain, upstream.TLSOptions{Verify: true, Roots: x509.NewCertPool()}, "tls"},
		{"certificate of ours", asks, upstream.TLSOptions{Certificates: own}, `HTTP/1.1 cert`},
		{"TLS 1.2", plain, upstream.TLSOptions{MaxVersion: tls.VersionTLS12}, `HTTP/1.1`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cl := client(t, upstream.Config{})
			to := upstream.Target{Addr: addrOf(c.s.Listener.Addr()), Protocol: upstream.HTTPS, TLS: upstream.TLSConfig(c.o)}
			for range 3 {
				x := ask(t, "POST", "/", strings.NewReader("abc"), 3)
				if c.want == "tls" {
					if e := failure(t, cl, x, to); e.Phase != upstream.TLS || e.Sent {
						t.Errorf("error %+v, want one in phase tls", e)
					}
					continue
				}
				if got := outcome(cl, x, to); !strings.Contains(got, `X-Saw="`+c.want+`"`) || !strings.HasSuffix(got, `body="abc"`) {
					t.Errorf("outcome %s, want %s", got, c.want)
				}
			}
			if dials := cl.Stats.Dials.Load(); c.want != "tls" && dials != 1 {
				t.Errorf("%d connections, want 1", dials)
			}
		})
	}
}

// TestTLSPools keeps connections with different settings apart.
func TestTLSPools(t *testing.T) {
	s, roots := secure(t, false, nil, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	c := client(t, upstream.Config{})
	to := upstream.Target{Addr: addrOf(s.Listener.Addr()), Protocol: upstream.HTTPS, TLS: upstream.TLSConfig(upstream.TLSOptions{})}
	if _, err := c.Do(ask(t, "GET", "/", nil, 0), to); err != nil {
		t.Fatal(err)
	}
	to.TLS = upstream.TLSConfig(upstream.TLSOptions{Verify: true, Roots: roots, Name: "other.example"})
	if e := failure(t, c, ask(t, "GET", "/", nil, 0), to); e.Phase != upstream.TLS {
		t.Errorf("error %v: a connection that nobody has verified was used", e)
	}
	to.TLS = nil
	if e := failure(t, c, ask(t, "GET", "/", nil, 0), to); e.Phase != upstream.Build {
		t.Errorf("error %v, want one in phase build", e)
	}
}

// TestPlainForTLS speaks TLS to an endpoint that does not.
func TestPlainForTLS(t *testing.T) {
	b := says(t, "HTTP/1.1 400 close-after\r\n\r\n")
	for _, p := range []upstream.Protocol{upstream.HTTPS, upstream.GRPCS} {
		e := failure(t, client(t, upstream.Config{}), ask(t, "GET", "/", nil, 0), upstream.Target{Addr: b.addr, Protocol: p, TLS: upstream.TLSConfig(upstream.TLSOptions{})})
		if e.Phase != upstream.TLS && e.Phase != upstream.Head || e.Sent && p == upstream.HTTPS {
			t.Errorf("error %+v", e)
		}
	}
}
