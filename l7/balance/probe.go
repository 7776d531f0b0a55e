package balance

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// A Dial makes a connection, as net.Dialer.DialContext does.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// HTTPProber returns the Prober that does what a Check says: it connects and, if
// there is a path, asks for it on a connection of its own and looks at the status. Redirects are not
// followed. The certificate of the endpoint is not verified: the question is
// whether it works, and nothing secret is said.
func HTTPProber(dial Dial) Prober {
	transport := &http.Transport{
		DialContext:            dial,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
	}
	return func(ctx context.Context, to netip.AddrPort, c Check) error {
		if c.Path == "" {
			conn, err := dial(ctx, "tcp", to.String())
			if err != nil {
				return err
			}
			return conn.Close()
		}
		return ask(ctx, transport, to, c)
	}
}

func ask(ctx context.Context, transport http.RoundTripper, to netip.AddrPort, c Check) error {
	u := url.URL{Scheme: "http", Host: to.String()}
	if c.TLS {
		u.Scheme = "https"
	}
	path, query, _ := strings.Cut(c.Path, "?")
	u.Opaque, u.RawQuery = path, query // Opaque is sent as it is
	req := (&http.Request{Method: c.Method, URL: &u, Host: c.Host, Header: http.Header{}}).WithContext(ctx)
	req.Header.Set("User-Agent", "fairlead-health-check")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", c.Method, c.Path, err)
	}
	// The status was the question. Closing ends the connection.
	_ = resp.Body.Close()
	if !c.Expected.Has(resp.StatusCode) {
		return fmt.Errorf("%s %s: status %d, want %v", c.Method, c.Path, resp.StatusCode, c.Expected)
	}
	return nil
}
