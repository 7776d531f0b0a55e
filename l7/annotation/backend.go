package annotation

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/balance"
)

// Long times are bounds where only a slip of the pen goes beyond.
const (
	day  = 24 * time.Hour
	year = 365 * day
)

// The room for the head of an answer: what is always given, and the most.
const (
	minHead = 64 << 10
	maxHead = 1 << 20
)

// upstream reads how backends are asked.
func upstream(r *reader) Upstream {
	out := Upstream{
		Protocol:       get(r, "backend-protocol", parseProtocol),
		ServiceAddress: get(r, "service-upstream", parseBool),
		ConnectTimeout: get(r, "proxy-connect-timeout", timeIn(100*time.Millisecond, year)),
		ReadTimeout:    get(r, "proxy-read-timeout", timeIn(time.Second, year)),
		SendTimeout:    get(r, "proxy-send-timeout", timeIn(time.Second, year)),
		MaxHead:        headRoom(r),
		Retry:          get(r, "proxy-next-upstream", parseRetry),
	}
	out.Retry.NonIdempotent = out.Retry.NonIdempotent || get(r, "retry-non-idempotent", parseBool)
	out.Retry.Tries = get(r, "proxy-next-upstream-tries", intIn(0, 1000))
	out.Retry.Within = get(r, "proxy-next-upstream-timeout", timeIn(0, year))
	if !out.Retry.any() {
		out.Retry = Retry{Tries: 1}
	}
	out.TLS = upstreamTLS(r, out.Protocol)
	return out
}

func headRoom(r *reader) int64 {
	size, at := lookup(r, "proxy-buffer-size", parseSize)
	if size > maxHead {
		r.note(at.key, Differs, "the head of an answer has 1m of room, not more")
	}
	return min(max(size, minHead), maxHead)
}

// any reports whether there is anything after which another endpoint is asked.
func (t *Retry) any() bool {
	return t.Error || t.Timeouts || t.InvalidHeader || len(t.Statuses) > 0
}

// parseProtocol takes what may be spoken to backends.
func parseProtocol(s string) (Protocol, error) {
	switch p := strings.ToUpper(s); p {
	case "FCGI", "AJP", "UWSGI":
		return HTTP, fmt.Errorf("%s is not spoken: put a web server in front of the application", p)
	case "AUTO_HTTP":
		return HTTP, errors.New("AUTO_HTTP is not supported yet: say HTTP or HTTPS")
	}
	for p := HTTP; p <= GRPCS; p++ {
		if strings.EqualFold(s, p.String()) {
			return p, nil
		}
	}
	return HTTP, fmt.Errorf("%q is none of HTTP, HTTPS, GRPC and GRPCS", s)
}

func sizeTo(most int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		n, err := parseSize(s)
		if err == nil && n > most {
			err = fmt.Errorf("%s is more than %d bytes", s, most)
		}
		return n, err
	}
}

// parseRetry takes the conditions of nginx' proxy_next_upstream.
func parseRetry(s string) (Retry, error) {
	words, err := listOf(func(s string) (string, error) { return strings.ToLower(s), nil })(s)
	if err != nil {
		return Retry{}, err
	}
	var out Retry
	for _, w := range words {
		code, isStatus := strings.CutPrefix(w, "http_")
		switch {
		case w == "off":
			if len(words) > 1 {
				return Retry{}, errors.New("off does not go together with anything else")
			}
		case w == "error":
			out.Error = true
		case w == "timeout":
			out.Timeouts = true
		case w == "invalid_header":
			out.InvalidHeader = true
		case w == "non_idempotent":
			out.NonIdempotent = true
		case isStatus && slices.Contains([]string{"500", "502", "503", "504", "403", "404", "429"}, code):
			n, _ := intIn(400, 599)(code)
			out.Statuses = append(out.Statuses, n)
		default:
			return Retry{}, fmt.Errorf("%q is no condition", w)
		}
	}
	slices.Sort(out.Statuses)
	out.Statuses = slices.Compact(out.Statuses)
	return out, nil
}

// upstreamTLS reads how TLS is spoken to backends.
func upstreamTLS(r *reader, p Protocol) UpstreamTLS {
	out := UpstreamTLS{
		Verify:     get(r, "proxy-ssl-verify", parseSwitch),
		ServerName: get(r, "proxy-ssl-server-name", parseSwitch),
		Name: get(r, "proxy-ssl-name", func(s string) (string, error) {
			return parseHost(s, false)
		}),
	}
	versions, _ := lookup(r, "proxy-ssl-protocols", parseVersions)
	out.MinVersion, out.MaxVersion = versions[0], versions[1]
	secret, at := lookup(r, "proxy-ssl-secret", r.object)
	out.Secret = secret
	if at.key != "" && !p.TLS() {
		r.note(at.key, Ignored, "no effect with backend-protocol %s", p)
	}
	if !p.TLS() {
		return UpstreamTLS{}
	}
	if secret != "" && r.in.SecretData != nil {
		if _, ok := r.in.SecretData(secret); !ok {
			r.close(at.key, "there is no Secret %s", secret)
		}
	}
	if at, ok := r.written("proxy-ssl-verify"); ok && out.Verify && secret == "" {
		r.close(at.key, "proxy-ssl-secret is missing, so there is nothing to check certificates by")
	}
	return out
}

// parseVersions takes a list of versions of TLS and returns the first and the last. Those that are too old to be safe are
// left out, but not all may be.
func parseVersions(s string) ([2]uint16, error) {
	var out [2]uint16
	for word := range strings.FieldsFuncSeq(s, func(c rune) bool { return c == ' ' || c == ',' }) {
		v := uint16(0)
		switch strings.ToLower(word) {
		case "sslv2", "sslv3", "tlsv1", "tlsv1.0", "tlsv1.1":
			continue
		case "tlsv1.2":
			v = tls.VersionTLS12
		case "tlsv1.3":
			v = tls.VersionTLS13
		default:
			return out, fmt.Errorf("%q is no version of TLS", word)
		}
		if out[0] == 0 || v < out[0] {
			out[0] = v
		}
		out[1] = max(out[1], v)
	}
	if out[0] == 0 {
		return out, errors.New("neither TLSv1.2 nor TLSv1.3 is there")
	}
	return out, nil
}

// balancing reads how an endpoint is chosen.
func balancing(r *reader) (balance.Config, Template) {
	out := balance.Config{
		Algorithm: get(r, "load-balance", parseAlgorithm),
		Sticky:    sticky(r),
		Health:    health(r),
	}
	by, at := lookup(r, "upstream-hash-by", func(s string) (Template, error) {
		t, err := parseTemplate(s)
		if err == nil && t.constant() {
			err = errors.New("there is no variable in it, so all requests would go to one endpoint")
		}
		return t, err
	})
	switch {
	case by != nil:
		out.Algorithm, out.HashBy = balance.Hash, by.String()
	case out.Algorithm == balance.Hash:
		src, _ := r.written("load-balance")
		r.note(src.key, Invalid, "hash needs upstream-hash-by; round_robin is used")
		out.Algorithm = balance.RoundRobin
	}
	if by != nil && out.Sticky != nil {
		r.note(at.key, Ignored, "affinity wins for clients that have its cookie")
	}
	return out, by
}

// parseAlgorithm takes the names of balance, with - for _ too, and ingress-nginx' old name of one of them.
func parseAlgorithm(s string) (balance.Algorithm, error) {
	name := strings.ReplaceAll(strings.ToLower(s), "-", "_")
	if name == "least_conn" {
		name = "least_requests"
	}
	a, ok := balance.ParseAlgorithm(name)
	if !ok {
		return balance.RoundRobin, fmt.Errorf("%q is none of round_robin, least_requests, ewma, hash and ip_hash", s)
	}
	return a, nil
}

// sticky reads affinity by cookie.
func sticky(r *reader) *balance.Sticky {
	if get(r, "affinity", oneOf("cookie")) == "" {
		return nil
	}
	out := balance.Sticky{
		Name:            get(r, "session-cookie-name", parseToken),
		Path:            get(r, "session-cookie-path", parseCookiePath),
		SameSite:        get(r, "session-cookie-samesite", parseSameSite),
		MaxAge:          get(r, "session-cookie-max-age", parseSigned),
		Expires:         get(r, "session-cookie-expires", parseSigned),
		ChangeOnFailure: get(r, "session-cookie-change-on-failure", parseBool),
	}
	out.Domain = get(r, "session-cookie-domain", func(s string) (string, error) {
		return parseHost(strings.TrimPrefix(s, "."), false)
	})
	if get(r, "affinity-mode", oneOf("balanced", "persistent")) == "persistent" {
		out.Mode = balance.Persistent
	}
	if secure, at := lookup(r, "session-cookie-secure", parseBool); secure {
		out.Secure = balance.SecureAlways
	} else if at.key != "" {
		out.Secure = balance.SecureNever
	}
	if out.SameSite == http.SameSiteNoneMode && out.Secure == balance.SecureNever {
		src, _ := r.written("session-cookie-secure")
		r.note(src.key, Invalid, "browsers refuse SameSite=None without Secure; it is set over TLS")
		out.Secure = balance.SecureAuto
	}
	return &out
}

// parseCookiePath takes what may stand in the attribute Path.
func parseCookiePath(s string) (string, error) {
	if s[0] != '/' || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == ';' || c == ',' }) {
		return "", fmt.Errorf("%q is not a path for a cookie", s)
	}
	return s, nil
}

func parseSameSite(s string) (http.SameSite, error) {
	switch strings.ToLower(s) {
	case "none":
		return http.SameSiteNoneMode, nil
	case "lax":
		return http.SameSiteLaxMode, nil
	case "strict":
		return http.SameSiteStrictMode, nil
	default:
		return 0, fmt.Errorf("%q is none of None, Lax and Strict", s)
	}
}

// parseSigned takes a time that may be negative, which deletes a cookie.
func parseSigned(s string) (time.Duration, error) {
	rest, negative := strings.CutPrefix(s, "-")
	d, err := timeIn(0, 100*year)(rest)
	if negative {
		d = -d
	}
	return d, err
}

// health reads how bad endpoints are told from good ones.
func health(r *reader) balance.Health {
	out := balance.Health{SlowStart: get(r, "slow-start", timeIn(0, time.Hour))}
	fails, at := lookup(r, "max-fails", intIn(0, 1000))
	out.Passive = balance.Passive{
		MaxFails:    fails,
		Off:         at.key != "" && fails == 0,
		FailTimeout: get(r, "fail-timeout", timeIn(time.Second, time.Hour)),
	}
	if fails > 0 && out.Passive.FailTimeout == 0 {
		out.Passive.FailTimeout = 10 * time.Second // as in nginx, whose words these are
	}
	out.Check = check(r)
	return out
}

// check reads active health checks.
func check(r *reader) *balance.Check {
	out := balance.Check{
		Path:     get(r, "health-check-path", parsePath),
		Method:   get(r, "health-check-method", oneOf("GET", "HEAD", "OPTIONS")),
		Host:     get(r, "health-check-host", parseHostPort),
		Interval: get(r, "health-check-interval", timeIn(time.Second, time.Hour)),
		Timeout:  get(r, "health-check-timeout", timeIn(100*time.Millisecond, time.Minute)),
		Rise:     get(r, "health-check-rise", intIn(1, 100)),
		Fall:     get(r, "health-check-fall", intIn(1, 100)),
		Expected: get(r, "health-check-expected-codes", balance.ParseCodes),
		TLS:      get(r, "backend-protocol", parseProtocol).TLS(),
	}
	if out.Path != "" {
		return &out
	}
	for _, name := range []string{"method", "host", "interval", "timeout", "rise", "fall", "expected-codes"} {
		if src, ok := r.written("health-check-" + name); ok {
			r.note(src.key, Ignored, "no effect without health-check-path")
		}
	}
	return nil
}

// canary reads which requests a canary takes, and drops all that counts for its principal only.
func canary(r *reader) *Canary {
	if !get(r, "canary", parseBool) {
		for _, name := range r.names("canary-") {
			r.note(r.found[name][0].key, Ignored, "no effect without canary: true")
		}
		return nil
	}
	r.onlyServe("it is a canary, for which the annotations of the other Ingress count",
		append(r.names("canary", "session-cookie-", "affinity", "upstream-hash-by", "load-balance"), "backend-protocol", "service-upstream")...)
	out := Canary{
		Header: get(r, "canary-by-header", parseToken),
		Value:  get(r, "canary-by-header-value", parseText),
		Cookie: get(r, "canary-by-cookie", parseToken),
		Total:  max(100, get(r, "canary-weight-total", intIn(1, 1_000_000))),
		Weight: get(r, "canary-weight", intIn(0, 1_000_000)),
	}
	pattern, at := lookup(r, "canary-by-header-pattern", CompilePattern)
	switch {
	case pattern != nil && out.Value != "":
		r.note(at.key, Ignored, "no effect: canary-by-header-value wins")
	case pattern != nil && out.Header == "":
		r.note(at.key, Ignored, "no effect without canary-by-header")
	default:
		out.Pattern = pattern
	}
	if src, ok := r.written("canary-by-header-value"); ok && out.Header == "" {
		r.note(src.key, Ignored, "no effect without canary-by-header")
		out.Value = ""
	}
	if out.Weight > out.Total {
		src, _ := r.written("canary-weight")
		r.note(src.key, Invalid, "%d of %d counts as all", out.Weight, out.Total)
		out.Weight = out.Total
	}
	return &out
}

// names returns the names of what is written and begins with one of prefixes, in order.
func (r *reader) names(prefixes ...string) []string {
	var out []string
	for name := range r.found {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
