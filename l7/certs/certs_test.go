package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

// An issuer signs certificates for tests. The zero value signs with the key itself.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "p224":
		key, err = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns a certificate for key.
func (i issuer) issue(t testing.TB, key crypto.Signer, change func(*x509.Certificate), names ...string) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "test " + serial.String()}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour), BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	parent, signer := i.cert, i.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ca(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }

func crtPEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func keyPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// newPair returns a self-signed pair.
func newPair(t testing.TB, kind string, names ...string) *Pair {
	t.Helper()
	key := newKey(t, kind)
	p, err := Parse(crtPEM(issuer{}.issue(t, key, nil, names...)), keyPEM(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParse(t *testing.T) {
	root, middle, leaf, other := newKey(t, "ecdsa"), newKey(t, "ecdsa"), newKey(t, "ecdsa"), newKey(t, "rsa")
	rootCert := issuer{}.issue(t, root, ca)
	middleCert := issuer{rootCert, root}.issue(t, middle, ca)
	leafCert := issuer{middleCert, middle}.issue(t, leaf, nil, "a.example")
	ec, err := x509.MarshalECPrivateKey(leaf.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ec})
	params := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}})
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(other.(*rsa.PrivateKey))})
	p224 := newKey(t, "p224")
	good, key := crtPEM(leafCert, middleCert), keyPEM(t, leaf)
	for _, c := range []struct {
		name     string
		crt, key []byte
		err      string
		warning  string
	}{
		{"leaf and chain", good, key, "", ""},
		{"with the root", crtPEM(leafCert, middleCert, rootCert), key, "", ""},
		{"SEC 1", good, sec1, "", ""},
		{"parameters first", good, append(params, sec1...), "", ""},
		{"PKCS #1", crtPEM(issuer{}.issue(t, other, nil, "a")), pkcs1, "", ""},
		{"blank lines and text before", append([]byte("subject=x\n"), append(good, '\n', '\n')...), key, "", ""},
		{"chain in the wrong order", crtPEM(leafCert, rootCert, middleCert), key, "", "was not issued by the one behind it"},
		{"no names", crtPEM(issuer{}.issue(t, leaf, nil)), key, "", "no subject alternative name"},
		{"a CA", crtPEM(issuer{}.issue(t, leaf, ca, "a")), key, "", "that of a CA"},
		{"nothing", nil, key, "tls.crt: is missing or empty", ""},
		{"blanks", []byte(" \n"), key, "tls.crt: is missing or empty", ""},
		{"no PEM", []byte("hello"), key, "tls.crt: holds no PEM block", ""},
		{"the key in the place of the certificate", key, key, "tls.crt: block 1 is a PRIVATE KEY, not a CERTIFICATE", ""},
		{"damaged", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), key, "tls.crt: certificate 1: ", ""},
		{"rubbish behind", append(slices.Clone(good), "-----BEGIN CERT"...), key, "tls.crt: has something behind certificate 2", ""},
		{"huge", make([]byte, maxPEM+1), key, "tls.crt: is ", ""},
		{"endless", bytes.Repeat(crtPEM(leafCert), 40), key, "tls.crt: holds more than 32 certificates", ""},
		{"leaf not first", crtPEM(middleCert, leafCert), key, "is number 2; it has to be the first", ""},
		{"no key", good, nil, "tls.key: is missing or empty", ""},
		{"another key", good, keyPEM(t, other), "tls.key: does not belong to the certificate in tls.crt", ""},
		{"a curve that TLS has not", crtPEM(issuer{}.issue(t, p224, nil, "a")), keyPEM(t, p224), "tls.key: TLS has no certificates on the curve P-224", ""},
		{"certificate for key", good, good, "tls.key: holds a certificate", ""},
		{"encrypted", good, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}), "tls.key: is encrypted", ""},
		{"encrypted in the old way", good, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "x"}}), "tls.key: is encrypted", ""},
		{"damaged key", good, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), "tls.key: is neither", ""},
		{"only parameters", good, params, "tls.key: holds no private key", ""},
	} {
		p, err := Parse(c.crt, c.key)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
		if err != nil {
			if strings.Contains(err.Error(), "BEGIN") {
				t.Errorf("%s: the error shows what was parsed: %v", c.name, err)
			}
			continue
		}
		if got := strings.Join(p.Warnings, "; "); (got == "") != (c.warning == "") || !strings.Contains(got, c.warning) {
			t.Errorf("%s: warnings %q, want %q", c.name, got, c.warning)
		}
		if p.Certificate.Leaf == nil {
			t.Errorf("%s: Leaf is not set", c.name)
		}
	}
}

func FuzzParse(f *testing.F) {
	key := newKey(f, "ecdsa")
	crt := issuer{}.issue(f, key, nil, "a.example")
	f.Add(crtPEM(crt), keyPEM(f, key))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"), []byte("-----BEGIN PRIVATE KEY-----"))
	f.Fuzz(func(t *testing.T, crt, key []byte) {
		if p, err := Parse(crt, key); err == nil {
			p.Problems(service.Object{}, time.Now())
			p.ValidFor("a.example")
		} else if !strings.HasPrefix(err.Error(), "tls.crt: ") && !strings.HasPrefix(err.Error(), "tls.key: ") {
			t.Errorf("%v does not say which of the two to mend", err)
		}
	})
}

func TestValidFor(t *testing.T) {
	p := newPair(t, "ecdsa", "a.example", "*.b.example", "*.C.example")
	for host, want := range map[string]bool{
		"a.example": true, "A.Example.": true, "x.b.example": true, "*.b.example": true, "*.c.example": true,
		"b.example": false, "x.y.b.example": false, "*.a.example": false, "*.example": false, "": false, "10.0.0.1": false,
	} {
		if got := p.ValidFor(host); got != want {
			t.Errorf("ValidFor(%q) = %v, want %v", host, got, want)
		}
	}
}

func TestProblems(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	end := begin.AddDate(0, 3, 0)
	key := newKey(t, "ecdsa")
	crt := issuer{}.issue(t, key, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = begin, end }, "a.example")
	p, err := Parse(crtPEM(crt), keyPEM(t, key))
	if err != nil {
		t.Fatal(err)
	}
	secret := service.Object{Kind: "Secret", Name: service.Name{Namespace: "shop", Name: "tls"}}
	for _, c := range []struct {
		now    time.Time
		reason string
		next   time.Time
	}{
		{begin.Add(-time.Hour), "CertInvalid", begin},
		{begin, "", end.Add(-soon)},
		{end.Add(-soon), "", end},
		{end.Add(-soon + time.Second), "CertExpiring", end},
		{end.Add(time.Second), "CertExpired", time.Time{}},
	} {
		var got []string
		for _, pr := range p.Problems(secret, c.now) {
			if pr.Object != secret || pr.Field != "data[tls.crt]" || pr.Message == "" {
				t.Errorf("%v: %+v", c.now, pr)
			}
			got = append(got, pr.Reason)
		}
		if diff := cmp.Diff(strings.Join(got, " "), c.reason); diff != "" {
			t.Errorf("at %v (-got +want):\n%s", c.now, diff)
		}
		if got := p.Next(c.now); !got.Equal(c.next) {
			t.Errorf("at %v Next is %v, want %v", c.now, got, c.next)
		}
	}
}

func TestCache(t *testing.T) {
	key := newKey(t, "ecdsa")
	crt, k := crtPEM(issuer{}.issue(t, key, nil, "a.example")), keyPEM(t, key)
	var c Cache
	one, err := c.Parse(crt, k)
	if err != nil {
		t.Fatal(err)
	}
	if two, err := c.Parse(slices.Clone(crt), k); two != one || err != nil {
		t.Errorf("the same bytes yield %p and %p, %v", one, two, err)
	}
	if _, err := c.Parse(crt, append(k, "x"...)); err != nil {
		t.Errorf("a comment behind the key: %v", err)
	}
	if _, err := c.Parse(append(slices.Clone(crt), k[:1]...), k[1:]); err == nil {
		t.Error("another split of the same bytes is taken for the same")
	}
}

func TestSelfSigned(t *testing.T) {
	now := time.Now()
	p, err := SelfSigned(now, "a.example")
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Problems(service.Object{}, now); len(got) > 0 || !p.ValidFor("a.example") {
		t.Errorf("problems %v, valid for its host: %v", got, p.ValidFor("a.example"))
	}
	if p, err = SelfSigned(now); err != nil || len(p.Certificate.Leaf.DNSNames) == 0 {
		t.Errorf("without hosts: %v", err)
	}
}
