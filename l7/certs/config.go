package certs

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
)

// Settings is what operators choose about TLS. The zero value is TLS 1.2 and 1.3 with
// the suites and curves of crypto/tls, HTTP/2, and no session tickets.
type Settings struct {
	MinVersion uint16        // 0 means TLS 1.2
	MaxVersion uint16        // 0 means the newest
	Ciphers    []uint16      // of TLS 1.2 and before; nil means those of crypto/tls. Order does not matter, nor do those of TLS 1.3
	Curves     []tls.CurveID // nil means those of crypto/tls
	NoHTTP2    bool
	Tickets    *Tickets // nil: sessions are not resumed
	Limiter    *Limiter // optional: bounds handshakes on connections it has wrapped
}

// ServerConfig returns the configuration for listeners whose certificates are in t, and
// what had to be left out. It has to be used itself: a Clone, such as http.Server.ServeTLS makes, is
// not told of new ticket keys. When it is not used any more, Tickets.Detach it.
//
// Certificates stays empty, or the default would be chosen by crypto/tls and not by
// the Table.
func ServerConfig(s Settings, t *Table) (*tls.Config, []string) {
	config := &tls.Config{
		GetCertificate:   t.Get,
		MinVersion:       max(s.MinVersion, tls.VersionTLS10),
		MaxVersion:       s.MaxVersion,
		CipherSuites:     s.Ciphers,
		CurvePreferences: s.Curves,
		NextProtos:       []string{"h2", "http/1.1"},
	}
	if s.MinVersion == 0 {
		config.MinVersion = tls.VersionTLS12
	}
	var warnings []string
	if config.SessionTicketsDisabled = s.Tickets == nil; s.Tickets != nil {
		if err := s.Tickets.Attach(config); err != nil {
			config.SessionTicketsDisabled = true
			warnings = append(warnings, "session tickets are off: "+err.Error())
		}
	}
	if s.Limiter != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return nil, s.Limiter.Admit(hello)
		}
	}
	if !s.NoHTTP2 && s.Ciphers != nil && config.MinVersion < tls.VersionTLS13 && !forHTTP2(s.Ciphers) {
		warnings = append(warnings, "HTTP/2 is off: it needs TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 or "+
			"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 among the cipher suites (RFC 9113, 9.2.2)")
		s.NoHTTP2 = true
	}
	if s.NoHTTP2 {
		config.NextProtos = []string{"http/1.1"}
	}
	return config, warnings
}

func forHTTP2(suites []uint16) bool {
	return slices.Contains(suites, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) ||
		slices.Contains(suites, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)
}

// ParseVersions reads a list as in nginx' ssl_protocols, such as "TLSv1.2 TLSv1.3", and returns its ends.
func ParseVersions(text string) (lowest, highest uint16, err error) {
	for _, f := range strings.Fields(text) {
		var v uint16
		switch strings.ToLower(f) {
		case "tlsv1", "tlsv1.0":
			v = tls.VersionTLS10
		case "tlsv1.1":
			v = tls.VersionTLS11
		case "tlsv1.2":
			v = tls.VersionTLS12
		case "tlsv1.3":
			v = tls.VersionTLS13
		default:
			return 0, 0, fmt.Errorf("%q is none of TLSv1, TLSv1.1, TLSv1.2 and TLSv1.3", f)
		}
		if lowest == 0 || v < lowest {
			lowest = v
		}
		highest = max(highest, v)
	}
	if lowest == 0 {
		return 0, 0, fmt.Errorf("%q names no version of TLS", text)
	}
	return lowest, highest, nil
}

// ParseCiphers reads a list of cipher suites by their names in crypto/tls or in
// OpenSSL, separated by colons, commas or blanks, and returns those that can be had and what is wrong with
// the others. Suites of TLS 1.3 are always on and cannot be chosen.
func ParseCiphers(text string) (suites []uint16, warnings []string) {
	fields := strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == ',' || r == ' ' })
	for _, f := range fields {
		s := suite(f)
		switch {
		case s == nil:
			warnings = append(warnings, fmt.Sprintf("there is no cipher suite %q", f))
		case slices.Equal(s.SupportedVersions, []uint16{tls.VersionTLS13}):
			warnings = append(warnings, fmt.Sprintf("%s is of TLS 1.3, whose suites are always on", f))
		case strings.Contains(s.Name, "RC4") || strings.Contains(s.Name, "3DES"):
			warnings = append(warnings, fmt.Sprintf("%s is broken and left out", f))
		default:
			if s.Insecure {
				warnings = append(warnings, fmt.Sprintf("%s is not secure", f))
			}
			if !slices.Contains(suites, s.ID) {
				suites = append(suites, s.ID)
			}
		}
	}
	return suites, warnings
}

// suite returns the cipher suite of that name, or nil.
func suite(name string) *tls.CipherSuite {
	for _, s := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if strings.EqualFold(s.Name, name) || strings.EqualFold(openSSL(s.Name), name) {
			return s
		}
	}
	return nil
}

// openSSL returns the name that OpenSSL has for a suite of crypto/tls.
func openSSL(name string) string {
	return strings.NewReplacer("TLS_RSA_WITH_", "", "TLS_ECDHE", "ECDHE", "_WITH_", "-", "AES_128", "AES128", "AES_256", "AES256",
		"_CBC_", "-", "POLY1305_SHA256", "POLY1305", "_", "-").Replace(name)
}

// ParseCurves reads a list as in nginx' ssl_ecdh_curve, separated by colons, commas or blanks, and
// returns those that can be had, in order, and what is wrong with the others. "auto" is nil.
func ParseCurves(text string) (curves []tls.CurveID, warnings []string) {
	fields := strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == ',' || r == ' ' })
	for _, f := range fields {
		var c tls.CurveID
		switch strings.ToLower(f) {
		case "auto":
			continue
		case "x25519":
			c = tls.X25519
		case "x25519mlkem768":
			c = tls.X25519MLKEM768
		case "p-256", "prime256v1", "secp256r1", "curvep256":
			c = tls.CurveP256
		case "p-384", "secp384r1", "curvep384":
			c = tls.CurveP384
		case "p-521", "secp521r1", "curvep521":
			c = tls.CurveP521
		default:
			warnings = append(warnings, fmt.Sprintf("there is no curve %q", f))
			continue
		}
		if !slices.Contains(curves, c) {
			curves = append(curves, c)
		}
	}
	return curves, warnings
}
