package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestAccess(t *testing.T) {
	for _, c := range []struct {
		name   string
		access Access
		from   string
		want   string
	}{
		{"no list", Access{}, "203.0.113.9", "passed"},
		{"allowed", Access{Allow: prefixes("203.0.113.0/24")}, "203.0.113.9", "passed"},
		{"not allowed", Access{Allow: prefixes("203.0.113.0/24")}, "198.51.100.1", "denied"},
		{"an empty list allows nobody", Access{Allow: []netip.Prefix{}}, "198.51.100.1", "denied"},
		{"denied", Access{Deny: prefixes("203.0.113.0/24")}, "203.0.113.9", "denied"},
		{"not denied", Access{Deny: prefixes("203.0.113.0/24")}, "198.51.100.1", "passed"},
		{"both", Access{Allow: prefixes("203.0.113.0/24"), Deny: prefixes("203.0.113.9/32")}, "203.0.113.9", "denied"},
		{"IPv4 in IPv6", Access{Allow: prefixes("203.0.113.0/24")}, "::ffff:203.0.113.9", "passed"},
		{"IPv4 in IPv6, in the list", Access{Deny: prefixes("::ffff:203.0.113.0/120")}, "203.0.113.9", "denied"},
		{"IPv6", Access{Allow: prefixes("2001:db8::/32")}, "2001:db8::1", "passed"},
		{"a zone is no way around", Access{Deny: prefixes("fe80::/10")}, "fe80::1%eth0", "denied"},
		{"all of IPv4 is not IPv6", Access{Allow: prefixes("0.0.0.0/0")}, "2001:db8::1", "denied"},
		{"unknown, allowed", Access{Allow: prefixes("0.0.0.0/0", "::/0")}, "", "denied"},
		{"unknown, denied", Access{Deny: prefixes("203.0.113.0/24")}, "", "denied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newExchange(t, "GET", "http://a.example/")
			x.Request.Client = netip.AddrPort{}
			if c.from != "" {
				x.Request.Client = netip.AddrPortFrom(netip.MustParseAddr(c.from), 1)
			}
			diff(t, "outcome", outcome(x, compile(t, Config{Access: &c.access}, Env{}).Admit(x)), c.want)
			if x.Response != nil {
				diff(t, "status", x.Response.Status, 403)
			}
		})
	}
}

func TestSatisfyAny(t *testing.T) {
	users, err := ParseHtpasswd([]byte("ann:{SHA}" + shaOf("secret") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	inside, outside := "203.0.113.9", "198.51.100.1"
	list := Access{Allow: prefixes("203.0.113.0/24"), Deny: prefixes("203.0.113.66/32"), Except: true}
	for _, c := range []struct {
		name     string
		access   Access
		from     string
		password string
		want     string
	}{
		{"inside", list, inside, "", "passed"},
		{"outside", list, outside, "", "auth-missing"},
		{"outside, authenticated", list, outside, "secret", "passed"},
		{"outside, wrong", list, outside, "wrong", "auth-failed"},
		{"denied", list, "203.0.113.66", "", "auth-missing"},
		{"denied, authenticated", list, "203.0.113.66", "secret", "passed"},
		{"no list lets nobody in", Access{Except: true}, inside, "", "auth-missing"},
		{"not being denied is no merit", Access{Deny: prefixes("203.0.113.66/32"), Except: true}, inside, "", "auth-missing"},
		{"all: inside", Access{Allow: prefixes("203.0.113.0/24")}, inside, "", "auth-missing"},
		{"all: outside, authenticated", Access{Allow: prefixes("203.0.113.0/24")}, outside, "secret", "denied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newExchange(t, "GET", "http://a.example/")
			x.Request.Client = netip.AddrPortFrom(netip.MustParseAddr(c.from), 1)
			if c.password != "" {
				x.Request.Header.Add("Authorization", basic("ann", c.password))
			}
			p := compile(t, Config{Access: &c.access, BasicAuth: &BasicAuth{Users: users}}, env(t))
			diff(t, "outcome", outcome(x, p.Admit(x)), c.want)
			if x.Response == nil && x.Request.Header.Has("Authorization") {
				t.Error("the backend gets the password")
			}
		})
	}
}

// TestPrefixSet compares the set with asking one prefix after the other.
func TestPrefixSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	addr := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(256)), byte(r.IntN(256))})
		}
		return netip.AddrFrom16([16]byte{0x20, 1, 13: byte(r.IntN(3)), 14: byte(r.IntN(256)), 15: byte(r.IntN(256))})
	}
	for range 200 {
		var list []netip.Prefix
		for range r.IntN(20) {
			a := addr()
			list = append(list, netip.PrefixFrom(a, r.IntN(a.BitLen()+1)))
		}
		s := newPrefixSet(list)
		for range 50 {
			a := addr()
			got, want := s.contains(a), slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
			if got != want {
				t.Fatalf("%s in %v: %v, want %v", a, list, got, want)
			}
		}
	}
}
