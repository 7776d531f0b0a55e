package route

import (
	"errors"
	"strings"
	"testing"
)

func TestParseHost(t *testing.T) {
	for _, tc := range []struct{ raw, host, port string }{
		{"", "", ""},
		{"example.com", "example.com", ""},
		{"Example.COM:8080", "example.com", "8080"},
		{"example.com.", "example.com", ""},
		{"example.com.:443", "example.com", "443"},
		{"example.com:", "example.com", ""},
		{"a_b-c.d", "a_b-c.d", ""},
		{"localhost", "localhost", ""},
		{"192.0.2.1:80", "192.0.2.1", "80"},
		{"[2001:DB8::1]:443", "[2001:db8::1]", "443"},
		{"[2001:db8:0:0::1]", "[2001:db8::1]", ""},
		{"[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]", ""},
		{"h:65535", "h", "65535"},
		{strings.Repeat("a", 63) + ".x", strings.Repeat("a", 63) + ".x", ""},
	} {
		host, port, err := ParseHost(tc.raw)
		if host != tc.host || port != tc.port || err != nil {
			t.Errorf("ParseHost(%q) = %q, %q, %v; want %q, %q", tc.raw, host, port, err, tc.host, tc.port)
		}
	}
}

func TestParseHostRefuses(t *testing.T) {
	for _, raw := range []string{
		".", "..", ".a", "a..", "a..b", "a b", "user@host", "a/b", "a,b", "a%62", "é", "a\x00", "a\n", "*.a", "a*", ":80", "a:b",
		"a:80:80", "a:65536", "a:000080", "a:-1", "a:+1", "::1", "[::1", "[::1]80", "[::1]:x", "[1.2.3.4]", "[]", "[fe80::1%eth0]",
		"[::1].", strings.Repeat("a", 255),
	} {
		if host, port, err := ParseHost(raw); !errors.Is(err, ErrHost) || host != "" || port != "" {
			t.Errorf("ParseHost(%q) = %q, %q, %v; want ErrHost", raw, host, port, err)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, seed := range []string{"Example.com:80", "[::1]:443", "a.b.", "a:", "", "*.a", "[fe80::1%25x]"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		host, port, err := ParseHost(raw)
		if err != nil {
			return
		}
		if again, rest, err := ParseHost(host); again != host || rest != "" || err != nil {
			t.Fatalf("ParseHost(%q) = %q, and of that %q, %q, %v", raw, host, again, rest, err)
		}
		if strings.ToLower(host) != host || strings.HasSuffix(host, ".") || strings.HasPrefix(host, ".") || strings.ContainsAny(host, "*@/ ,%") {
			t.Fatalf("ParseHost(%q) = %q", raw, host)
		}
		if len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			t.Fatalf("ParseHost(%q): port %q", raw, port)
		}
	})
}
