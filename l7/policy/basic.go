package policy

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// defaultRealm is shown by browsers where the Ingress names none.
const defaultRealm = "restricted"

// A basicAuth is the compiled BasicAuth.
type basicAuth struct {
	verifier  *verifier
	users     Htpasswd // nil closes the rule
	digest    [sha256.Size]byte
	challenge string
}

// basicAuth returns the stage, or nil.
func (b *builder) basicAuth() (*basicAuth, error) {
	c := b.config.BasicAuth
	if c == nil {
		return nil, nil
	}
	if err := b.shared("basic authentication"); err != nil {
		return nil, err
	}
	challenge, err := challenge(c.Realm)
	if err != nil {
		return nil, fmt.Errorf("basic authentication: %w", err)
	}
	s := &basicAuth{verifier: b.env.Shared.verifier, challenge: challenge}
	switch u := c.Users.(type) {
	case nil:
	case *Users:
		if u != nil { // a nil *Users in the interface is the Secret that is bad, too
			s.users, s.digest = u, u.Digest()
		}
	default:
		// Nothing tells these users from others: nobody else's outcomes are theirs.
		_, _ = rand.Read(s.digest[:])
		s.users = u
	}
	return s, nil
}

// challenge is the value of WWW-Authenticate after RFC 7617.
func challenge(realm string) (string, error) {
	if realm == "" {
		realm = defaultRealm
	}
	if err := checkValue("WWW-Authenticate", realm); err != nil || !utf8.ValidString(realm) {
		return "", fmt.Errorf("the realm %q has bytes that may not be in a header", realm)
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(realm)
	return `Basic realm="` + quoted + `", charset="UTF-8"`, nil
}

// Admit lets in who has a good name and password, and notes the name in x.User.
func (s *basicAuth) Admit(x *exchange.Exchange) bool {
	if s.users == nil {
		x.Answer(503, ReasonAuthBroken)
		return false
	}
	user, password, ok := credentials(x.Request.Header)
	if !ok {
		s.ask(x, ReasonAuthMissing)
		return false
	}
	ctx := x.Context
	if ctx == nil {
		ctx = context.Background()
	}
	switch s.verifier.check(ctx, s.users, s.digest, user, password) {
	case isRight:
		x.User = user
		return true
	case isBusy:
		x.Answer(503, ReasonAuthBusy).Header.Set("Retry-After", "1")
	default:
		s.ask(x, ReasonAuthFailed)
	}
	return false
}

func (s *basicAuth) ask(x *exchange.Exchange, reason string) {
	x.Answer(401, reason).Header.Set("WWW-Authenticate", s.challenge)
}

// credentials reads the one Authorization field of h, if it is of the Basic scheme. Names with
// control bytes are refused, since they get into logs.
func credentials(h exchange.Header) (user, password string, ok bool) {
	value, n := "", 0
	for _, f := range h {
		if strings.EqualFold(f.Name, "Authorization") {
			value, n = f.Value, n+1
		}
	}
	const prefix = "basic "
	if n != 1 || len(value) < len(prefix) || !strings.EqualFold(value[:len(prefix)], prefix) || len(value) > 2*(maxUser+maxPassword) {
		return "", "", false
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimLeft(value[len(prefix):], " "))
	if err != nil {
		return "", "", false
	}
	user, password, ok = strings.Cut(string(raw), ":")
	if strings.ContainsFunc(user, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", "", false
	}
	return user, password, ok
}
