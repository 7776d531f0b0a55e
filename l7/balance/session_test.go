package balance

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func stickyConfig(m Mode) Config { return Config{Sticky: &Sticky{Name: "c", Mode: m}} }

// open makes n sessions and returns where each went, by its cookie.
func open(t testing.TB, b *Balancer, n int) map[string]netip.AddrPort {
	t.Helper()
	out := map[string]netip.AddrPort{}
	for range n {
		var q Pick
		ep, ok := b.Pick(&q)
		if !ok || !q.Fresh || q.Session == "" {
			t.Fatalf("a new session: endpoint %v, cookie %q, fresh %v", ok, q.Session, q.Fresh)
		}
		out[q.Session] = ep.Addr()
	}
	return out
}

// visit sends every session once more. It returns how many went elsewhere and how
// many got a new cookie, and has sessions say where they went.
func visit(t testing.TB, b *Balancer, sessions map[string]netip.AddrPort) (moved, renewed int) {
	t.Helper()
	for s, was := range sessions {
		q := Pick{Session: s}
		ep := mustSame(t, b, &q)
		if ep.Addr() != was {
			moved++
		}
		if q.Fresh {
			renewed++
			delete(sessions, s)
		}
		sessions[q.Session] = ep.Addr()
	}
	return moved, renewed
}

func mustSame(t testing.TB, b *Balancer, q *Pick) *Endpoint {
	t.Helper()
	ep, ok := b.Pick(q)
	if !ok {
		t.Fatal("Pick found no endpoint")
	}
	return ep
}

func TestSessionsStay(t *testing.T) {
	for _, m := range []Mode{Balanced, Persistent} {
		for _, n := range []int{1, 3, 50} {
			p := newTestPool(t, 1, equalEndpoints(n))
			sessions := open(t, p.Balancer(stickyConfig(m)), 500)
			// Another node, with other randomness, sends them to the same endpoints.
			other := newTestPool(t, 77, equalEndpoints(n))
			b := other.Balancer(stickyConfig(m))
			if moved, renewed := visit(t, b, sessions); moved != 0 || renewed != 0 {
				t.Errorf("mode %d, %d endpoints: on another node %d sessions of 500 moved, %d got a new cookie", m, n, moved, renewed)
			}
			for s := range sessions {
				if strings.Contains(s, "10.244") || len(s) != keyLen+1+tagLen {
					t.Fatalf("session %q", s)
				}
			}
		}
	}
}

func TestPersistentHidesAddresses(t *testing.T) {
	p := newTestPool(t, 1, equalEndpoints(1))
	q := NewPool("shop/cart:80", Options{Key: []byte("another key")})
	q.Set(equalEndpoints(1), nil)
	if a, b := p.known[at(0)].name(), q.known[at(0)].name(); a == b {
		t.Errorf("with different keys an endpoint has the same name, %q", a)
	}
}

func TestSessionsAndChurn(t *testing.T) {
	for _, c := range []struct {
		mode     Mode
		whenOne  string
		min, max int // of 1000 sessions that move when one endpoint comes beside 9
	}{{Balanced, "comes", 60, 140}, {Persistent, "comes", 0, 0}} {
		p := newTestPool(t, 1, equalEndpoints(9))
		b := p.Balancer(stickyConfig(c.mode))
		sessions := open(t, b, 1000)
		p.Set(equalEndpoints(10), equalEndpoints(10))
		if moved, renewed := visit(t, b, sessions); moved < c.min || moved > c.max || renewed != 0 {
			t.Errorf("mode %d: one of 10 comes: %d sessions moved, want %d to %d; %d got a new cookie, want 0", c.mode, moved, c.min, c.max, renewed)
		}
		for s, a := range open(t, b, 100) {
			sessions[s] = a // some at the one that came, whatever the mode
		}
		// It leaves but still serves: nothing moves, nothing new goes there.
		p.Set(equalEndpoints(9), equalEndpoints(10))
		if moved, renewed := visit(t, b, sessions); moved != 0 || renewed != 0 {
			t.Errorf("mode %d: one leaves and still serves: %d sessions moved, %d got a new cookie", c.mode, moved, renewed)
		}
		fresh := open(t, b, 1000)
		for s, a := range fresh {
			if a == at(9) {
				t.Fatalf("mode %d: the new session %s went to the one that leaves", c.mode, s)
			}
		}
		if moved, _ := visit(t, b, fresh); moved != 0 {
			t.Errorf("mode %d: %d new sessions moved at once", c.mode, moved)
		}
		// It is gone: its sessions move, for good.
		had := 0
		for _, a := range sessions {
			if a == at(9) {
				had++
			}
		}
		p.Set(equalEndpoints(9), equalEndpoints(9))
		if moved, _ := visit(t, b, sessions); moved != had {
			t.Errorf("mode %d: one is gone that had %d sessions: %d moved", c.mode, had, moved)
		}
		if had == 0 {
			t.Errorf("mode %d: no session had been at the one that left", c.mode)
		}
		if moved, renewed := visit(t, b, sessions); moved != 0 || renewed != 0 {
			t.Errorf("mode %d: later %d sessions moved again, %d got a new cookie", c.mode, moved, renewed)
		}
	}
}

// TestPersistentElsewhere: a session made on another node names an endpoint that this one does not choose.
func TestPersistentElsewhere(t *testing.T) {
	there := newTestPool(t, 1, endpoints(5, 1)).Balancer(stickyConfig(Persistent))
	here := newTestPool(t, 2, nil)
	here.Set(endpoints(0, 1, 1, 1), equalEndpoints(6))
	for s := range open(t, there, 1) {
		q := Pick{Session: s}
		if ep := mustSame(t, here.Balancer(stickyConfig(Persistent)), &q); ep.Addr() != at(5) || q.Fresh {
			t.Errorf("the session goes to %v, fresh %v; want %v, which still serves", ep.Addr(), q.Fresh, at(5))
		}
	}
	for _, st := range here.Snapshot() {
		if st.Addr == at(5) {
			t.Errorf("the status shows what is not of this pool: %+v", st)
		}
	}
}

func TestSessionsAndEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, m := range []Mode{Balanced, Persistent} {
			for _, change := range []bool{false, true} {
				p := newTestPool(t, 1, equalEndpoints(4))
				b := p.Balancer(Config{Sticky: &Sticky{Name: "c", Mode: m, ChangeOnFailure: change}})
				var s string
				for k, a := range open(t, b, 100) {
					if a == at(2) {
						s = k
					}
				}
				// A try fails: another endpoint for this request, and for good if that is wanted.
				q := Pick{Session: s, Tried: []netip.AddrPort{at(2)}}
				if ep := mustSame(t, b, &q); ep.Addr() == at(2) || q.Fresh != change {
					t.Errorf("mode %d, change %v: the retry goes to %v, fresh %v", m, change, ep.Addr(), q.Fresh)
				}
				// It is ejected: a stand-in, always the same, until a trial succeeds.
				fail(p.known[at(2)], 5)
				q = Pick{Session: s}
				standIn := mustSame(t, b, &q)
				if standIn.Addr() == at(2) {
					t.Errorf("mode %d: the session goes to the endpoint that is out", m)
				}
				if change && m == Persistent {
					if !q.Fresh {
						t.Errorf("mode %d, change: the session of the one that is out stays", m)
					}
					continue
				}
				for range 10 {
					if ep := mustSame(t, b, &Pick{Session: s}); ep != standIn {
						t.Errorf("mode %d: two stand-ins", m)
					}
				}
				time.Sleep(10 * time.Second)
				if ep := mustSame(t, b, &Pick{Session: s}); ep.Addr() != at(2) {
					t.Errorf("mode %d: the trial goes to %v", m, ep.Addr())
				}
				if ep := mustSame(t, b, &Pick{Session: s}); ep != standIn {
					t.Errorf("mode %d: a second trial", m)
				}
				p.known[at(2)].Report(Answered, 0)
				if ep := mustSame(t, b, &Pick{Session: s}); ep.Addr() != at(2) {
					t.Errorf("mode %d: after it is back the session goes to %v", m, ep.Addr())
				}
			}
		}
	})
}

func TestForeignSessions(t *testing.T) {
	p := newTestPool(t, 1, equalEndpoints(3))
	other := NewPool("shop/cart-canary:80", Options{Key: []byte("the key")})
	other.Set(equalEndpoints(3), nil)
	for _, m := range []Mode{Balanced, Persistent} {
		b, canary := p.Balancer(stickyConfig(m)), other.Balancer(stickyConfig(m))
		var own, foreign string
		for own = range open(t, b, 1) {
		}
		for foreign = range open(t, canary, 1) {
		}
		if !b.Owns(own) || b.Owns(foreign) || canary.Owns(own) || !canary.Owns(foreign) {
			t.Errorf("mode %d: whose session is whose", m)
		}
		for _, s := range []string{foreign, "", own + "x", own[1:], "aaaaaaaaaa+." + p.tag, "aaaaaaaaaaa;" + p.tag, strings.Repeat("a", 1<<16)} {
			if b.Owns(s) {
				t.Errorf("mode %d: %.40q counts as a session", m, s)
			}
			q := Pick{Session: s}
			if _, ok := b.Pick(&q); !ok || !q.Fresh || !b.Owns(q.Session) {
				t.Errorf("mode %d: %.40q yields %q, fresh %v; want a new session", m, s, q.Session, q.Fresh)
			}
		}
	}
	if p.Balancer(Config{}).Owns("") {
		t.Error("a rule without sessions owns one")
	}
}

func TestSetCookie(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		sticky Sticky
		tls    bool
		want   string
	}{
		{Sticky{Name: "INGRESSCOOKIE", Path: "/"}, false, "INGRESSCOOKIE=v; Path=/; HttpOnly"},
		{Sticky{Name: "c", Path: "/app"}, true, "c=v; Path=/app; HttpOnly; Secure"},
		{Sticky{Name: "c", Secure: SecureNever}, true, "c=v; HttpOnly"},
		{Sticky{Name: "c", Secure: SecureAlways, SameSite: http.SameSiteNoneMode}, false, "c=v; HttpOnly; Secure; SameSite=None"},
		{Sticky{Name: "c", Domain: "example.com", SameSite: http.SameSiteStrictMode}, false, "c=v; Domain=example.com; HttpOnly; SameSite=Strict"},
		{Sticky{Name: "c", MaxAge: 48 * time.Hour, Expires: time.Hour}, false,
			"c=v; Expires=Sun, 01 Mar 2026 13:00:00 GMT; Max-Age=172800; HttpOnly"},
		{Sticky{Name: "c", MaxAge: -1, Expires: -time.Hour}, false, "c=v; Expires=Sun, 01 Mar 2026 11:00:00 GMT; Max-Age=0; HttpOnly"},
		{Sticky{Name: "c", MaxAge: time.Millisecond}, false, "c=v; Max-Age=1; HttpOnly"},
	} {
		if err := c.sticky.Validate(); err != nil {
			t.Errorf("%+v: %v", c.sticky, err)
		}
		if diff := cmp.Diff(c.sticky.SetCookie("v", c.tls, now), c.want); diff != "" {
			t.Errorf("Set-Cookie of %+v (-got +want):\n%s", c.sticky, diff)
		}
	}
}

func TestCookieValue(t *testing.T) {
	for _, c := range []struct {
		field, name, want string
		ok                bool
	}{
		{"", "a", "", false},
		{"a=1", "a", "1", true},
		{"a=1; b=2;c=3", "b", "2", true},
		{"a=1; b=2;c=3", "c", "3", true},
		{"aa=1; a=2", "a", "2", true},
		{"a=1; a=2", "a", "1", true},
		{"A=1", "a", "", false},
		{`a="x.y"`, "a", "x.y", true},
		{`a="`, "a", `"`, true},
		{"a", "a", "", false},
		{"a=", "a", "", true},
		{" \ta=b=c ", "a", "b=c", true},
	} {
		if got, ok := CookieValue(c.field, c.name); got != c.want || ok != c.ok {
			t.Errorf("CookieValue(%q, %q) = %q, %v, want %q, %v", c.field, c.name, got, ok, c.want, c.ok)
		}
	}
}

// FuzzSession feeds cookies that clients make up.
func FuzzSession(f *testing.F) {
	p := newTestPool(f, 1, equalEndpoints(3))
	for _, s := range []string{"", "c=", "c=AAAAAAAAAAA." + p.tag, `c="AAAAAAAAAAA.` + p.tag + `"; x`, "c=AAAAAAAAAA\xff." + p.tag} {
		f.Add(s)
	}
	bs := []*Balancer{p.Balancer(stickyConfig(Balanced)), p.Balancer(stickyConfig(Persistent))}
	f.Fuzz(func(t *testing.T, field string) {
		v, _ := CookieValue(field, "c")
		for _, b := range bs {
			q := Pick{Session: v}
			if _, ok := b.Pick(&q); !ok || !b.Owns(q.Session) || q.Fresh != (q.Session != v) {
				t.Errorf("cookie %q: session %q, fresh %v", v, q.Session, q.Fresh)
			}
		}
	})
}
