package policy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Bounds of asking other servers about access.
const (
	askConnect    = 5 * time.Second
	askTimeout    = 10 * time.Second // where the Ingress says nothing
	askIdle       = 60 * time.Second
	askPerHost    = 256
	maxAnswer     = 1 << 20 // bytes of a body that is passed on
	maxAnswerHead = 64 << 10
	maxDiscarded  = 64 << 10 // bytes of a body that nobody wants
)

// An asker puts the questions of external authentication. It is safe for concurrent use.
type asker struct {
	guarded, local http.RoundTripper
	verdicts       *lru.Cache[verdictKey, *verdictEntry]
}

func newAsker(transport http.RoundTripper, verdicts int) *asker {
	a := &asker{guarded: transport, local: transport}
	if transport == nil {
		a.guarded, a.local = newAskTransport(guardAddress), newAskTransport(nil)
	}
	// The error is for sizes below one alone.
	a.verdicts, _ = lru.New[verdictKey, *verdictEntry](verdicts)
	return a
}

// newAskTransport is a pool of connections of HTTP/1.1. A RoundTripper by itself follows no redirects, and this one takes no proxy from
// the environment.
func newAskTransport(guard func(netip.Addr) error) *http.Transport {
	dialer := &net.Dialer{Timeout: askConnect}
	if guard != nil {
		// Here the name is resolved already, so no answer of a DNS server gets around it.
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("look at the address %q: %w", address, err)
			}
			return guard(ap.Addr())
		}
	}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    askConnect,
		MaxIdleConnsPerHost:    32,
		MaxIdleConns:           1024,
		MaxConnsPerHost:        askPerHost,
		IdleConnTimeout:        askIdle,
		MaxResponseHeaderBytes: maxAnswerHead,
		DisableCompression:     true,
	}
}

// errGuarded says that an address may not be asked.
var errGuarded = errors.New("asking link-local addresses, cloud metadata or this machine is not allowed")

// guardAddress refuses addresses behind which there are things that trust whoever reaches them: this
// machine and the metadata services of clouds.
func guardAddress(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	// Amazon's and Alibaba's metadata services are not on link-local addresses alone.
	aws, alibaba := netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200")
	thisHost := netip.MustParsePrefix("0.0.0.0/8")
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.IsMulticast(),
		thisHost.Contains(a), a == aws, a == alibaba, a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s: %w", a, errGuarded)
	}
	// IPv4 in other clothes: NAT64 and IPv4-compatible addresses hold the address in their last bytes.
	b := a.As16()
	if a.Is6() && (netip.MustParsePrefix("64:ff9b::/96").Contains(a) || netip.MustParsePrefix("::/96").Contains(a)) {
		return guardAddress(netip.AddrFrom4([4]byte(b[12:])))
	}
	return nil
}

func (a *asker) transport(local bool) http.RoundTripper {
	if local {
		return a.local
	}
	return a.guarded
}

func (a *asker) close() {
	for _, t := range []http.RoundTripper{a.guarded, a.local} {
		if c, ok := t.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	}
}
