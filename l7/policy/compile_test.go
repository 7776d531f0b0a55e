package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// everything is a Config in which every policy stands.
func everything() Config {
	return Config{
		Redirect:  Redirect{HTTPS: true},
		Rewrite:   &Rewrite{Target: "/"},
		Access:    &Access{Allow: prefixes("198.51.100.0/24")},
		CORS:      &CORS{},
		Limits:    []Limit{{Connections: 10}, {Requests: 600, Per: time.Minute}, {Requests: 10, Per: time.Second}},
		BasicAuth: &BasicAuth{},
		ExtAuth:   &ExtAuth{URL: "http://auth.example/"},
		Headers:   Headers{Request: []Field{{"X-A", "1"}}, Response: []Field{{"X-B", "2"}}},
		Compress:  &Compress{Gzip: 1},
		Errors:    &Errors{Statuses: []int{404}},
		HSTS:      &HSTS{MaxAge: time.Hour},
		Body:      Body{Max: 1 << 20, Buffer: 16 << 10},
	}
}

func TestCompileOrder(t *testing.T) {
	const rest = " *policy.basicAuth *policy.extAuth policy.dropAuthorization *policy.rewriter *policy.requestFields *policy.bodyGuard"
	for _, c := range []struct {
		nginx bool
		want  string
	}{
		{false, "*policy.redirector *policy.accessList *policy.cors *policy.limiter" + rest},
		{true, "*policy.redirector *policy.cors *policy.limiter *policy.accessList" + rest},
	} {
		config := everything()
		config.NginxOrder = c.nginx
		p := compile(t, config, env(t))
		var stages, filters []string
		for _, s := range p.Stages {
			stages = append(stages, fmt.Sprintf("%T", s))
		}
		for _, f := range p.Filters {
			filters = append(filters, fmt.Sprintf("%T", f))
		}
		diff(t, "stages", strings.Join(stages, " "), c.want)
		diff(t, "filters", strings.Join(filters, " "),
			"*policy.errorPages *policy.extAuth *policy.responseFields policy.strictTransport *policy.cors *policy.compressor")
	}
}

func TestCompileNothing(t *testing.T) {
	p := compile(t, Config{}, Env{})
	if len(p.Stages) != 0 || len(p.Filters) != 0 {
		t.Errorf("a rule without policies has %d stages and %d filters, want none", len(p.Stages), len(p.Filters))
	}
	x := newExchange(t, "GET", "http://shop.example/")
	answer := backend(200, "")
	for _, p := range []*Pipeline{p, nil} {
		allocs := testing.AllocsPerRun(100, func() {
			if !p.Admit(x) {
				t.Error("refused without a policy")
			}
			x.Response = answer
			p.Apply(x)
			p.Done(x)
		})
		if allocs != 0 {
			t.Errorf("a rule without policies makes %v allocations a request, want 0", allocs)
		}
	}
}

func TestCompileRefused(t *testing.T) {
	config := everything()
	config.Refused = "the list of addresses could not be read"
	p := compile(t, config, Env{})
	x := newExchange(t, "GET", "http://shop.example/")
	diff(t, "outcome", outcome(x, p.Admit(x)), ReasonRefused)
	diff(t, "status", x.Response.Status, 503)
}

// TestCompileErrors makes sure that nothing unchecked gets through, and that a rule whose policies are wrong is
// closed even if the error is overlooked.
func TestCompileErrors(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		want   string
	}{
		"redirect to a script":        {Config{Redirect: Redirect{Temporal: "javascript:alert(1)"}}, "http:// or https://"},
		"redirect with a newline":     {Config{Redirect: Redirect{Permanent: "https://a.example/\r\nSet-Cookie: a=b"}}, "may not be in a header"},
		"redirect to another host":    {Config{Redirect: Redirect{Permanent: "//evil.example/"}}, "http:// or https://"},
		"redirect with no variable":   {Config{Redirect: Redirect{Permanent: "https://$secret/"}}, "no variable $secret"},
		"app-root that loops":         {Config{Redirect: Redirect{AppRoot: "/"}}, "app-root"},
		"app-root elsewhere":          {Config{Redirect: Redirect{AppRoot: "evil.example"}}, "app-root"},
		"www with a space":            {Config{Redirect: Redirect{WWW: "a b"}}, "not a host"},
		"rewrite with a newline":      {Config{Rewrite: &Rewrite{Target: "/a\nb"}}, "bytes"},
		"rewrite without a number":    {Config{Rewrite: &Rewrite{Target: "/$x"}}, "capture"},
		"rewrite to nothing":          {Config{Rewrite: &Rewrite{}}, "empty"},
		"prefix with a newline":       {Config{Rewrite: &Rewrite{Target: "/", Prefix: "/a\r\n"}}, "X-Forwarded-Prefix"},
		"cors with a newline":         {Config{CORS: &CORS{Headers: "A\r\nB"}}, "Access-Control-Allow-Headers"},
		"a limit of nothing":          {Config{Limits: []Limit{{}}}, "limits"},
		"a limit in no time":          {Config{Limits: []Limit{{Requests: 1}}}, "limits"},
		"five rates":                  {Config{Limits: []Limit{{0, 1, 1, 0}, {0, 1, 1, 0}, {0, 1, 1, 0}, {0, 1, 1, 0}, {0, 1, 1, 0}}}, "limits"},
		"a realm with a newline":      {Config{BasicAuth: &BasicAuth{Realm: "a\nb"}}, "realm"},
		"an auth URL without scheme":  {Config{ExtAuth: &ExtAuth{URL: "auth.example/"}}, "http:// or https://"},
		"an auth URL with a file":     {Config{ExtAuth: &ExtAuth{URL: "file:///etc/passwd"}}, "http:// or https://"},
		"an auth host by a field":     {Config{ExtAuth: &ExtAuth{URL: "http://$http_x_auth/"}}, "$http_x_auth may not stand there"},
		"an auth host by Host":        {Config{ExtAuth: &ExtAuth{URL: "http://$http_host/"}}, "may not stand there"},
		"an auth scheme by a field":   {Config{ExtAuth: &ExtAuth{URL: "$http_a://auth.example/"}}, "may not stand there"},
		"an auth URL with a user":     {Config{ExtAuth: &ExtAuth{URL: "http://a@auth.example/"}}, "user name"},
		"an auth method of two words": {Config{ExtAuth: &ExtAuth{URL: "http://auth.example/", Method: "GET /"}}, "method"},
		"auth copies Host":            {Config{ExtAuth: &ExtAuth{URL: "http://auth.example/", ResponseHeaders: []string{"Host"}}}, "Host"},
		"auth sets a bad field":       {Config{ExtAuth: &ExtAuth{URL: "http://auth.example/", Request: []Field{{"A b", "c"}}}}, "not a token"},
		"sign-in at a script":         {Config{ExtAuth: &ExtAuth{URL: "http://auth.example/", SignIn: "data:text/html,x"}}, "http:// or https://"},
		"a request field's name":      {Config{Headers: Headers{Request: []Field{{"A:b", "c"}}}}, "not a token"},
		"a request field's value":     {Config{Headers: Headers{Request: []Field{{"A", "b\r\nC: d"}}}}, "may not be in a header"},
		"a request's framing":         {Config{Headers: Headers{Request: []Field{{"Transfer-Encoding", "chunked"}}}}, "framing"},
		"a backend's host":            {Config{Headers: Headers{Upstream: "a b"}}, "not valid"},
		"an answer's length":          {Config{Headers: Headers{Response: []Field{{"content-length", "3"}}}}, "framing"},
		"hiding the connection":       {Config{Headers: Headers{Hide: []string{"Connection"}}}, "connection"},
		"a level of gzip":             {Config{Compress: &Compress{Gzip: 10}}, "level 10"},
		"an error that is none":       {Config{Errors: &Errors{Statuses: []int{200}}}, "200"},
		"hsts before now":             {Config{HSTS: &HSTS{MaxAge: -1}}, "hsts"},
		"a negative body":             {Config{Body: Body{Max: -1}}, "negative"},
	} {
		p, err := Compile(c.config, env(t))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
		x := newExchange(t, "GET", "http://shop.example/")
		if got := outcome(x, p.Admit(x)); got != ReasonRefused {
			t.Errorf("%s: the rule is open: %s", name, got)
		}
	}
}

func TestCompileMissing(t *testing.T) {
	_, err := Compile(everything(), Env{})
	for _, want := range []string{"rewrite: Env.Canonical", "limits: Env.Shared", "basic authentication: Env.Shared", "compression: Env.Shared", "custom errors: Env.ErrorPage"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	_, err = Compile(Config{ExtAuth: &ExtAuth{URL: "https://$host/auth"}}, Env{Shared: NewShared(SharedConfig{}), AnyHost: true})
	if err == nil || !strings.Contains(err.Error(), "$host may not stand there") {
		t.Errorf("a rule for any host lets the client say who is asked about it: %v", err)
	}
}

func TestApplyWithoutResponse(t *testing.T) {
	x := newExchange(t, "GET", "http://shop.example/")
	compile(t, everything(), env(t)).Apply(x)
	if x.Response != nil {
		t.Errorf("an answer came from nowhere: %+v", x.Response)
	}
}

var _ exchange.Stage = (*cors)(nil)
