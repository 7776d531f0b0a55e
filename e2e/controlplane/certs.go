//go:build linux

package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/netip"
	"time"
)

// certLife is how long certificates last: longer than any test.
const certLife = 7 * 24 * time.Hour

// A keyPair is a certificate and its private key, both PEM.
type keyPair struct {
	cert, key []byte
}

// An authority signs the certificates of one cluster, of servers and of clients
// alike.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte // the certificate
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	tmpl := template(pkix.Name{CommonName: "fairlead-e2e"})
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	return &authority{cert: cert, key: key, pem: encodeCert(der)}, nil
}

// server issues a serving certificate for the given addresses and names.
func (a *authority) server(addrs []netip.Addr, names []string) (keyPair, error) {
	tmpl := template(pkix.Name{CommonName: "kube-apiserver"})
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	tmpl.DNSNames = names
	for _, addr := range addrs {
		tmpl.IPAddresses = append(tmpl.IPAddresses, addr.AsSlice())
	}
	return a.issue(tmpl)
}

// client issues a certificate that the API server takes as the given user in the
// given groups: that is what it reads from the common name and the
// organisations.
func (a *authority) client(user string, groups []string) (keyPair, error) {
	tmpl := template(pkix.Name{CommonName: user, Organization: groups})
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(tmpl)
}

func (a *authority) issue(tmpl *x509.Certificate) (keyPair, error) {
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	key, keyPEM, err := newKey()
	if err != nil {
		return keyPair{}, fmt.Errorf("issue a certificate for %q: %w", tmpl.Subject.CommonName, err)
	}
	// The serial number is left for the library to choose at random.
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return keyPair{}, fmt.Errorf("issue a certificate for %q: %w", tmpl.Subject.CommonName, err)
	}
	return keyPair{cert: encodeCert(der), key: keyPEM}, nil
}

// newKey makes a private key and its PEM form.
func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a private key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a private key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newSigningKey makes the pair that service account tokens are signed and checked
// with. The public half has a file to itself because kube-apiserver does not
// find it in a PKCS #8 private key.
func newSigningKey() (private, public []byte, err error) {
	key, private, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encode a public key: %w", err)
	}
	return private, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// template is valid from an hour ago, so that a clock step backwards during a
// test does no harm.
func template(subject pkix.Name) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{Subject: subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife)}
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
