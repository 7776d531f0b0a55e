package upstream

import (
	"crypto/tls"
	"crypto/x509"
)

// TLSOptions are how an endpoint is spoken to in TLS. The zero value trusts everybody, as
// ingress-nginx does.
type TLSOptions struct {
	// Name is the server name to ask for (SNI) and, with Verify, the one the certificate has to be for.
	Name string
	// Verify checks the endpoint's certificate against Roots, or the system's if that is nil.
	Verify       bool
	Roots        *x509.CertPool
	Certificates []tls.Certificate // the client's own
	MinVersion   uint16            // TLS 1.2 if 0
	MaxVersion   uint16
}

// TLSConfig makes the value for Target.TLS. Requests share connections only if they give the same pointer, so it
// is made once per rule and kept while nothing changes.
//
// Verify without a Name checks the chain and not whom the certificate is for: endpoints are addresses, and
// certificates for pod addresses do not exist.
func TLSConfig(o TLSOptions) *tls.Config {
	c := &tls.Config{
		ServerName: o.Name, RootCAs: o.Roots, Certificates: o.Certificates,
		MinVersion: max(o.MinVersion, tls.VersionTLS12), MaxVersion: o.MaxVersion,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(64),
	}
	switch {
	case !o.Verify:
		c.InsecureSkipVerify = true
	case o.Name == "":
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error { return verifyChain(s, o.Roots) }
	}
	return c
}

func verifyChain(s tls.ConnectionState, roots *x509.CertPool) error {
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range s.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(opts)
	return err
}
