package certs

import (
	"crypto/tls"
	"slices"
	"testing"
)

// FuzzSettings reads lists of versions, cipher suites and curves: whatever is written, what comes out can be put in force.
func FuzzSettings(f *testing.F) {
	f.Add("TLSv1.2 TLSv1.3")
	f.Add("ECDHE-RSA-AES128-GCM-SHA256:TLS_AES_128_GCM_SHA256, RC4-SHA")
	f.Add("X25519MLKEM768:prime256v1,auto")
	f.Fuzz(func(t *testing.T, text string) {
		low, high, err := ParseVersions(text)
		if (err == nil) != (low != 0) || low > high || high > tls.VersionTLS13 {
			t.Errorf("versions %q: %x to %x, %v", text, low, high, err)
		}
		suites, _ := ParseCiphers(text)
		for i, s := range suites {
			if slices.Contains(suites[:i], s) || tls.CipherSuiteName(s)[:2] == "0x" {
				t.Errorf("suites %q: %x", text, suites)
			}
		}
		curves, _ := ParseCurves(text)
		for i, c := range curves {
			if slices.Contains(curves[:i], c) {
				t.Errorf("curves %q: %v", text, curves)
			}
		}
	})
}
