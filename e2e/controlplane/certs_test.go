//go:build linux

package controlplane

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, certPEM []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	if block == nil {
		t.Fatalf("not PEM: %q", certPEM)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestCertificates(t *testing.T) {
	ca, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	addrs := []netip.Addr{netip.MustParseAddr("172.18.0.1"), netip.MustParseAddr("fd00:172:18::1")}
	serving, err := ca.server(addrs, []string{"kubernetes"})
	if err != nil {
		t.Fatal(err)
	}
	client, err := ca.client("alice", []string{"testers", "readers"})
	if err != nil {
		t.Fatal(err)
	}
	s, c := parse(t, serving.cert), parse(t, client.cert)

	tests := []struct {
		name  string
		cert  *x509.Certificate
		ca    *authority
		host  string
		usage x509.ExtKeyUsage
		valid bool
	}{
		{"server by IPv4", s, ca, "172.18.0.1", x509.ExtKeyUsageServerAuth, true},
		{"server by IPv6", s, ca, "fd00:172:18::1", x509.ExtKeyUsageServerAuth, true},
		{"server by name", s, ca, "kubernetes", x509.ExtKeyUsageServerAuth, true},
		{"server at another address", s, ca, "172.18.0.2", x509.ExtKeyUsageServerAuth, false},
		{"server of another cluster", s, other, "kubernetes", x509.ExtKeyUsageServerAuth, false},
		{"server as client", s, ca, "", x509.ExtKeyUsageClientAuth, false},
		{"client", c, ca, "", x509.ExtKeyUsageClientAuth, true},
		{"client as server", c, ca, "", x509.ExtKeyUsageServerAuth, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			roots := x509.NewCertPool()
			roots.AddCert(tt.ca.cert)
			_, err := tt.cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: tt.host, KeyUsages: []x509.ExtKeyUsage{tt.usage}})
			if (err == nil) != tt.valid {
				t.Errorf("got %v, want valid: %v", err, tt.valid)
			}
		})
	}
	if got, want := c.Subject.CommonName, "alice"; got != want {
		t.Errorf("user: got %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string{"readers", "testers"}, slices.Sorted(slices.Values(c.Subject.Organization))); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
}
