package balance

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestParseCodes(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"200", "200"}, {"200,204 301-303", "200,204,301-303"}, {"2xx,3XX", "200-399"}, {"100-599", "100-599"},
		{"599,598", "598-599"}, {"", ""}, {"99", ""}, {"600", ""}, {"300-200", ""}, {"xxx", ""}, {"6xx", ""}, {"-", ""}, {"200-", ""}, {"+200", ""},
	} {
		got, err := ParseCodes(c.in)
		if got.String() != c.want || (err == nil) != (c.want != "") {
			t.Errorf("ParseCodes(%q) = %v, %v, want %q", c.in, got, err, c.want)
		}
	}
}

func FuzzParseCodes(f *testing.F) {
	f.Add("200,204-299 3xx")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCodes(text)
		if err != nil {
			return
		}
		if again, err := ParseCodes(c.String()); err != nil || again != c {
			t.Errorf("ParseCodes(%q) = %v, which reads as %v, %v", text, c, again, err)
		}
	})
}

func TestAlgorithmNames(t *testing.T) {
	for _, name := range []string{"round_robin", "least_requests", "ewma", "hash", "ip_hash"} {
		if a, ok := ParseAlgorithm(name); !ok || a.String() != name {
			t.Errorf("ParseAlgorithm(%q) = %v, %v", name, a, ok)
		}
	}
	if a, ok := ParseAlgorithm("Algorithm(5)"); ok {
		t.Errorf("ParseAlgorithm of nothing we have: %v", a)
	}
}

func TestValidate(t *testing.T) {
	good := []Config{
		{}, {Algorithm: Hash, HashBy: "$request_uri"}, {Sticky: &Sticky{Name: "c", Path: "/a b"}},
		{Health: Health{Check: &Check{Path: "/healthz?x=1", Method: "HEAD", Host: "a.example"}, SlowStart: time.Second}},
	}
	for _, c := range good {
		if err := c.Validate(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Algorithm: 9}, "Algorithm"},
		{Config{Algorithm: Hash}, "HashBy"},
		{Config{Sticky: &Sticky{}}, "Sticky.Name"},
		{Config{Sticky: &Sticky{Name: "a;b"}}, "Sticky.Name"},
		{Config{Sticky: &Sticky{Name: "a", Path: "/;x"}}, "Sticky.Path"},
		{Config{Sticky: &Sticky{Name: "a", Domain: "a\nb"}}, "Sticky.Domain"},
		{Config{Sticky: &Sticky{Name: "a", SameSite: http.SameSiteNoneMode, Secure: SecureNever}}, "Sticky.SameSite"},
		{Config{Health: Health{SlowStart: -1}}, "SlowStart"},
		{Config{Health: Health{Passive: Passive{MaxFails: -1, Percent: 101}}}, "Passive.Percent"},
		{Config{Health: Health{Check: &Check{Interval: 1}}}, "Check.Interval"},
		{Config{Health: Health{Check: &Check{Method: "POST"}}}, "Check.Method"},
		{Config{Health: Health{Check: &Check{Path: "healthz"}}}, "Check.Path"},
		{Config{Health: Health{Check: &Check{Path: "/a b"}}}, "Check.Path"},
		{Config{Health: Health{Check: &Check{Host: "a\r\nb"}}}, "Check.Host"},
		{Config{Health: Health{Check: &Check{Rise: 101, Fall: -1}}}, "Check.Fall"},
	} {
		if err := c.config.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want something about %s", c.config, err, c.want)
		}
	}
}

func TestCanary(t *testing.T) {
	re := regexp.MustCompile(`^beta-\d+$`)
	all := Canary{Header: "X-Canary", Cookie: "canary", Weight: 100}
	none := Canary{Header: "X-Canary", Cookie: "canary"}
	for _, c := range []struct {
		name   string
		canary Canary
		req    CanaryRequest
		want   bool
	}{
		{"nothing", Canary{}, CanaryRequest{Header: "always", Cookie: "always"}, false},
		{"header always", none, CanaryRequest{Header: "always"}, true},
		{"header before cookie", none, CanaryRequest{Header: "always", Cookie: "never"}, true},
		{"header never before cookie and weight", all, CanaryRequest{Header: "never", Cookie: "always"}, false},
		{"unknown header: cookie", none, CanaryRequest{Header: "maybe", Cookie: "always"}, true},
		{"unknown header: weight", all, CanaryRequest{Header: "maybe"}, true},
		{"cookie never before weight", all, CanaryRequest{Cookie: "never"}, false},
		{"unknown cookie: weight", all, CanaryRequest{Cookie: "x"}, true},
		{"value", Canary{Header: "X", Value: "eu"}, CanaryRequest{Header: "eu"}, true},
		{"another value", Canary{Header: "X", Value: "eu"}, CanaryRequest{Header: "Eu"}, false},
		{"with a value always means nothing", Canary{Header: "X", Value: "eu"}, CanaryRequest{Header: "always"}, false},
		{"with a value never means nothing", Canary{Header: "X", Value: "eu", Weight: 100}, CanaryRequest{Header: "never"}, true},
		{"pattern", Canary{Header: "X", Pattern: re}, CanaryRequest{Header: "beta-12"}, true},
		{"another pattern", Canary{Header: "X", Pattern: re}, CanaryRequest{Header: "beta-x"}, false},
		{"value before pattern", Canary{Header: "X", Value: "eu", Pattern: re}, CanaryRequest{Header: "beta-1"}, false},
		{"a total below 100 is 100", Canary{Weight: 100, Total: 10}, CanaryRequest{}, true},
	} {
		if err := c.canary.Validate(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := c.canary.Choose(c.req); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	for _, bad := range []Canary{{Weight: 101}, {Weight: -1}, {Total: -1}, {Header: "a b"}, {Cookie: "a;b"}, {Value: "x"}, {Pattern: re}} {
		if err := bad.Validate(); err == nil {
			t.Errorf("%+v passes", bad)
		}
	}
}

func TestCanaryWeight(t *testing.T) {
	for _, c := range []struct {
		weight, total int
		want          float64
	}{{0, 0, 0}, {30, 0, 0.3}, {30, 50, 0.3}, {30, 1000, 0.03}, {1000, 1000, 1}} {
		canary := Canary{Weight: c.weight, Total: c.total}
		n := 0
		for range 20_000 {
			if canary.Choose(CanaryRequest{}) {
				n++
			}
		}
		if got := float64(n) / 20_000; got < c.want-0.02 || got > c.want+0.02 {
			t.Errorf("weight %d of %d: %.3f of the requests, want %.3f", c.weight, c.total, got, c.want)
		}
	}
}

func TestCanaryAffinity(t *testing.T) {
	primary := newTestPool(t, 1, equalEndpoints(2)).Balancer(stickyConfig(Balanced))
	p := NewPool("shop/cart-canary:80", Options{Key: []byte("the key")})
	p.Set(equalEndpoints(2), nil)
	canary := p.Balancer(stickyConfig(Persistent))
	var one, two Pick
	primary.Pick(&one)
	canary.Pick(&two)
	for _, c := range []struct {
		name    string
		canary  Canary
		session string
		want    bool
	}{
		{"bound to the primary", Canary{Weight: 100}, one.Session, false},
		{"bound to the canary", Canary{}, two.Session, true},
		{"bound to nobody", Canary{}, "something else", false},
		{"legacy", Canary{Legacy: true, Weight: 100}, one.Session, true},
		{"legacy", Canary{Legacy: true}, two.Session, false},
	} {
		r := CanaryRequest{Session: c.session, Primary: primary, Canary: canary}
		if got := c.canary.Choose(r); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestBudget(t *testing.T) {
	for _, c := range []struct {
		budget         *Budget
		inFlight, want int
	}{
		{&Budget{}, 0, 3}, {&Budget{}, 10, 3}, {&Budget{}, 100, 20}, {&Budget{Percent: 50, Min: 1}, 4, 2}, {&Budget{Percent: 50, Min: 1}, 0, 1},
	} {
		for range c.inFlight {
			c.budget.Begin()
		}
		n := 0
		for c.budget.Retry() {
			if n++; n > 1000 {
				t.Fatal("no bound")
			}
		}
		if n != c.want {
			t.Errorf("%d in flight: %d retries, want %d", c.inFlight, n, c.want)
		}
		c.budget.Done()
		if !c.budget.Retry() || c.budget.Retry() || c.budget.Retries() != c.want {
			t.Error("a retry that is done does not make room for just one")
		}
		for range c.inFlight {
			c.budget.End()
		}
	}
}
