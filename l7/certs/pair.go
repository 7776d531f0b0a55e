package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A Pair is a certificate with its chain and its key. It is immutable.
type Pair struct {
	Certificate tls.Certificate // Leaf is set
	Hash        [32]byte        // of what it was parsed from
	Warnings    []string        // what is odd, though it can be used
}

// The limits of what is parsed: a Secret holds at most 1 MiB.
const (
	maxPEM   = 1 << 20
	maxChain = 32
)

// Parse reads a certificate, followed by its chain, and its key, both PEM, as they are in
// tls.crt and tls.key of a Secret. Errors name the one to mend. It does not look at
// dates: see Problems.
func Parse(crt, key []byte) (*Pair, error) {
	chain, err := parseChain(crt)
	if err != nil {
		return nil, fmt.Errorf("tls.crt: %w", err)
	}
	private, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("tls.key: %w", err)
	}
	if err := errors.Join(belongs(private, chain), serves(private)); err != nil {
		return nil, err
	}
	p := &Pair{Hash: hashOf(crt, key), Warnings: oddities(chain)}
	p.Certificate.PrivateKey = private
	p.Certificate.Leaf = chain[0]
	for _, c := range chain {
		p.Certificate.Certificate = append(p.Certificate.Certificate, c.Raw)
	}
	return p, nil
}

func hashOf(crt, key []byte) [32]byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(len(crt)))
	return sha256.Sum256(slices.Concat(b, crt, key))
}

// parseChain returns the certificates in text, at least one.
func parseChain(text []byte) ([]*x509.Certificate, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("is missing or empty")
	}
	if len(text) > maxPEM {
		return nil, fmt.Errorf("is longer than %d bytes", maxPEM)
	}
	var chain []*x509.Certificate
	for n := 1; ; n++ {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("block %d is a %s, not a CERTIFICATE", n, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", n, err)
		}
		if chain = append(chain, c); len(chain) > maxChain {
			return nil, fmt.Errorf("holds more than %d certificates", maxChain)
		}
	}
	if len(chain) == 0 {
		return nil, errors.New("holds no PEM block")
	}
	if len(bytes.TrimSpace(text)) > 0 {
		return nil, fmt.Errorf("has something behind certificate %d that is no PEM block", len(chain))
	}
	return chain, nil
}

// parseKey returns the first private key in text. Blocks before it, such as EC PARAMETERS, are skipped.
func parseKey(text []byte) (crypto.Signer, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("is missing or empty")
	}
	if len(text) > maxPEM {
		return nil, fmt.Errorf("is longer than %d bytes", maxPEM)
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("holds no private key in PEM")
		}
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, errors.New("is encrypted; it has to be stored without a passphrase")
		case block.Type == "CERTIFICATE":
			return nil, errors.New("holds a certificate, not a private key")
		case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
			continue
		}
		return parseDER(block.Bytes)
	}
}

// parseDER reads a key in any of the three forms that are in use.
func parseDER(der []byte) (crypto.Signer, error) {
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, nil
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("is neither PKCS #8, PKCS #1 nor SEC 1: %w", err)
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", k)
	}
	return signer, nil
}

// belongs returns nil if key is that of the first certificate of chain.
func belongs(key crypto.Signer, chain []*x509.Certificate) error {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return fmt.Errorf("tls.key: a %T is of no kind that TLS knows", key)
	}
	for i, c := range chain {
		switch {
		case !public.Equal(c.PublicKey):
			continue
		case i > 0:
			return fmt.Errorf("tls.crt: the certificate that tls.key belongs to (%s) is number %d; it has to be the first",
				c.Subject, i+1)
		}
		return nil
	}
	return fmt.Errorf("tls.key: does not belong to the certificate in tls.crt (%s)", chain[0].Subject)
}

// serves returns nil if crypto/tls can make handshakes with key, which it would say only then.
func serves(key crypto.Signer) error {
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 1024 {
			return fmt.Errorf("tls.key: RSA with %d bits is not secure; 2048 is the least that clients take", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if c := k.Curve; c != elliptic.P256() && c != elliptic.P384() && c != elliptic.P521() {
			return fmt.Errorf("tls.key: TLS has no certificates on the curve %s", c.Params().Name)
		}
	}
	return nil
}

// oddities returns what clients may stumble over.
func oddities(chain []*x509.Certificate) []string {
	var odd []string
	for i, c := range chain[1:] {
		if !bytes.Equal(chain[i].RawIssuer, c.RawSubject) {
			odd = append(odd, fmt.Sprintf("tls.crt: certificate %d (%s) was not issued by the one behind it (%s): the chain is not in order",
				i+1, chain[i].Subject, c.Subject))
			break
		}
	}
	leaf := chain[0]
	if len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
		odd = append(odd, "tls.crt: the certificate has no subject alternative name, so clients accept it for no host")
	}
	if leaf.IsCA {
		odd = append(odd, "tls.crt: the certificate is that of a CA")
	}
	if k, ok := leaf.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < 2048 {
		odd = append(odd, fmt.Sprintf("tls.crt: a key of %d bits is refused by many clients", k.N.BitLen()))
	}
	return odd
}

// rank orders pairs of one host: what costs the server least comes first.
func (p *Pair) rank() int {
	switch p.Certificate.Leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return 0
	case *rsa.PublicKey:
		return 2
	default: // Ed25519, which browsers do not understand
		return 1
	}
}

// ValidFor reports whether clients accept p for host, which may be a wildcard of
// one label. Dates do not matter.
func (p *Pair) ValidFor(host string) bool {
	host = normal(host)
	if strings.HasPrefix(host, "*.") {
		return slices.ContainsFunc(p.Certificate.Leaf.DNSNames, func(n string) bool { return normal(n) == host })
	}
	return p.Certificate.Leaf.VerifyHostname(host) == nil
}

// soon is how long before its end a certificate is worth a warning.
const soon = 10 * 24 * time.Hour

// Problems returns what an operator should hear about p, which is from secret: that it is
// over (CertExpired), soon will be (CertExpiring), or is odd (CertInvalid). When this changes
// next is told by Next.
func (p *Pair) Problems(secret service.Object, now time.Time) []service.Problem {
	var out []service.Problem
	add := func(reason, message string) {
		out = append(out, service.Problem{Object: secret, Reason: reason, Field: "data[tls.crt]", Message: message})
	}
	leaf := p.Certificate.Leaf
	switch until := leaf.NotAfter.UTC().Format(time.RFC3339); {
	case now.After(leaf.NotAfter):
		add("CertExpired", "the certificate has expired at "+until)
	case now.After(leaf.NotAfter.Add(-soon)):
		add("CertExpiring", "the certificate expires at "+until)
	case now.Before(leaf.NotBefore):
		add("CertInvalid", "the certificate is not valid before "+leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	for _, w := range p.Warnings {
		add("CertInvalid", strings.TrimPrefix(w, "tls.crt: "))
	}
	return out
}

// Next returns when Problems will say something else than it says now, or the
// zero time if never.
func (p *Pair) Next(now time.Time) time.Time {
	leaf := p.Certificate.Leaf
	for _, t := range []time.Time{leaf.NotBefore, leaf.NotAfter.Add(-soon), leaf.NotAfter} {
		if now.Before(t) {
			return t
		}
	}
	return time.Time{}
}

// normal returns host in lower case and without a dot at the end.
func normal(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }
