package policy

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

func shaOf(password string) string {
	h := sha1.Sum([]byte(password))
	return base64.StdEncoding.EncodeToString(h[:])
}

func bcryptOf(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestBasicAuth(t *testing.T) {
	users, err := ParseHtpasswd([]byte("ann:" + bcryptOf(t, "s3cret:with colon") + "\nbob:{SHA}" + shaOf("b") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := compile(t, Config{BasicAuth: &BasicAuth{Realm: `the "shop"`, Users: users}}, env(t))
	for _, c := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"right", []string{"Authorization", basic("ann", "s3cret:with colon")}, "passed"},
		{"right, again", []string{"Authorization", basic("ann", "s3cret:with colon")}, "passed"},
		{"the scheme in any case", []string{"authorization", "bAsIc" + basic("bob", "b")[5:]}, "passed"},
		{"wrong", []string{"Authorization", basic("ann", "wrong")}, "auth-failed"},
		{"wrong, again", []string{"Authorization", basic("ann", "wrong")}, "auth-failed"},
		{"somebody else's", []string{"Authorization", basic("ann", "b")}, "auth-failed"},
		{"unknown", []string{"Authorization", basic("eve", "b")}, "auth-failed"},
		{"names have a case", []string{"Authorization", basic("Bob", "b")}, "auth-failed"},
		{"empty", []string{"Authorization", basic("", "")}, "auth-failed"},
		{"none", nil, "auth-missing"},
		{"another scheme", []string{"Authorization", "Bearer abc"}, "auth-missing"},
		{"no base64", []string{"Authorization", "Basic !!!"}, "auth-missing"},
		{"no colon", []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("ann"))}, "auth-missing"},
		{"a newline in the name", []string{"Authorization", basic("ann\n", "b")}, "auth-missing"},
		{"two", []string{"Authorization", basic("bob", "b"), "Authorization", basic("bob", "b")}, "auth-missing"},
		{"very long", []string{"Authorization", basic("bob", strings.Repeat("b", 5000))}, "auth-missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newExchange(t, "GET", "http://a.example/", c.fields...)
			diff(t, "outcome", outcome(x, p.Admit(x)), c.want)
			if x.Response == nil {
				if x.Request.Header.Has("Authorization") || x.User == "" {
					t.Errorf("the backend gets %v of user %q", x.Request.Header, x.User)
				}
				return
			}
			diff(t, "status", x.Response.Status, 401)
			diff(t, "challenge", x.Response.Header.Get("WWW-Authenticate"), `Basic realm="the \"shop\"", charset="UTF-8"`)
		})
	}
}

func TestBasicAuthWithoutSecret(t *testing.T) {
	var none *Users
	for _, users := range []Htpasswd{nil, none} {
		p := compile(t, Config{BasicAuth: &BasicAuth{Users: users}}, env(t))
		x := newExchange(t, "GET", "http://a.example/", "Authorization", basic("", ""))
		diff(t, "outcome", outcome(x, p.Admit(x)), ReasonAuthBroken)
		diff(t, "status", x.Response.Status, 503)
	}
}

// countingUsers knows one password, and counts how often and how many at a time it is asked.
type countingUsers struct {
	delay     time.Duration
	asked     atomic.Int64
	now, most atomic.Int64
}

func (u *countingUsers) Check(_, password string) bool {
	u.asked.Add(1)
	n := u.now.Add(1)
	defer u.now.Add(-1)
	for old := u.most.Load(); n > old && !u.most.CompareAndSwap(old, n); old = u.most.Load() {
	}
	time.Sleep(u.delay)
	return password == "right"
}

func TestVerifierRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, users := newVerifier(16, 1), &countingUsers{}
		check := func(digest byte, password string) verdict {
			return v.check(t.Context(), users, [32]byte{digest}, "ann", password)
		}
		for range 3 {
			diff(t, "right", check(1, "right"), isRight)
			diff(t, "wrong", check(1, "wrong"), isWrong)
		}
		diff(t, "checks", users.asked.Load(), int64(2))
		check(2, "right")
		diff(t, "checks after the file has changed", users.asked.Load(), int64(3))
		time.Sleep(rememberPassword + time.Second)
		check(1, "right")
		diff(t, "checks after a while", users.asked.Load(), int64(4))
	})
}

// TestVerifierGuessing makes sure that somebody who guesses does not make others wait for bcrypt again.
func TestVerifierGuessing(t *testing.T) {
	v, users := newVerifier(4, 1), &countingUsers{}
	v.check(t.Context(), users, [32]byte{}, "ann", "right")
	for i := range 100 {
		v.check(t.Context(), users, [32]byte{}, "ann", strings.Repeat("x", i+1))
	}
	before := users.asked.Load()
	diff(t, "right", v.check(t.Context(), users, [32]byte{}, "ann", "right"), isRight)
	diff(t, "checks", users.asked.Load(), before)
}

func TestVerifierIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, users := newVerifier(1024, 2), &countingUsers{delay: time.Second}
		var busy atomic.Int64
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				if v.check(t.Context(), users, [32]byte{}, "ann", strings.Repeat("x", i+1)) == isBusy {
					busy.Add(1)
				}
			})
		}
		wg.Wait()
		diff(t, "checks at the same time", users.most.Load(), int64(2))
		// Two run at once, and those that wait see at most five seconds of two a second pass, and one more pair start.
		if n := users.asked.Load(); n < 10 || n > 12 || n+busy.Load() != 200 {
			t.Errorf("%d checks and %d refused, want 10 to 12 and the rest of 200", n, busy.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		v.slots <- struct{}{}
		v.slots <- struct{}{}
		diff(t, "a client that has gone", v.check(ctx, users, [32]byte{}, "ann", "y"), isBusy)
	})
}

func TestVerifierSameTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, users := newVerifier(16, 1), &countingUsers{delay: time.Second}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() { diff(t, "right", v.check(t.Context(), users, [32]byte{}, "ann", "right"), isRight) })
		}
		wg.Wait()
		diff(t, "checks for six connections of one browser", users.asked.Load(), int64(1))
	})
}

func TestBasicAuthBusy(t *testing.T) {
	e := env(t)
	e.Shared.verifier = newVerifier(16, 1)
	p := compile(t, Config{BasicAuth: &BasicAuth{Users: &countingUsers{}}}, e)
	e.Shared.verifier.slots <- struct{}{}
	e.Shared.verifier.waiting.Store(maxWaiting)
	x := newExchange(t, "GET", "http://a.example/", "Authorization", basic("ann", "right"))
	diff(t, "outcome", outcome(x, p.Admit(x)), ReasonAuthBusy)
	diff(t, "status", x.Response.Status, 503)
	diff(t, "Retry-After", x.Response.Header.Get("Retry-After"), "1")
}
