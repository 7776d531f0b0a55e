package annotation

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/l7/policy"
)

// basicAuth reads who has to say a password. Whatever is wrong with it closes the rule.
func basicAuth(r *reader) *policy.BasicAuth {
	kind, at := lookup(r, "auth-type", func(s string) (string, error) {
		if strings.EqualFold(s, "digest") {
			return "", errors.New("digest is not supported: it needs the passwords in clear or as MD5; use basic")
		}
		return oneOf("basic")(s)
	})
	value, secretAt := lookup(r, "auth-secret", r.object)
	form := get(r, "auth-secret-type", oneOf("auth-file", "auth-map"))
	realm := get(r, "auth-realm", parseRealm)
	switch {
	case kind == "" && value == "":
		return nil
	case kind == "" && r.nginx():
		r.note(secretAt.key, Ignored, "no effect without auth-type: basic")
		return nil
	case kind == "":
		r.note(secretAt.key, Differs, "auth-type is missing; passwords are asked for all the same")
	case value == "":
		if _, there := r.present("auth-secret"); !there {
			r.close(at.key, "auth-secret is missing")
		}
		return &policy.BasicAuth{Realm: realm}
	}
	users, err := r.users(value, form)
	switch {
	case err != nil && users == nil:
		r.note(secretAt.key, Refused, "nobody is let in: %v", err)
	case err != nil:
		r.note(secretAt.key, Invalid, "some are not let in: %v", err)
	}
	return &policy.BasicAuth{Realm: realm, Users: users}
}

// users reads the passwords. Users may be there together with an error, when some lines are bad.
func (r *reader) users(secret, form string) (policy.Htpasswd, error) {
	if r.in.SecretData == nil {
		return nil, nil
	}
	data, ok := r.in.SecretData(secret)
	if !ok {
		return nil, fmt.Errorf("there is no Secret %s", secret)
	}
	var users *policy.Users
	var err error
	if form == "auth-map" {
		users, err = policy.ParseHtpasswdMap(data)
	} else {
		file, ok := data["auth"]
		if !ok {
			return nil, fmt.Errorf("the Secret %s has no key auth", secret)
		}
		users, err = policy.ParseHtpasswd(file)
	}
	if users == nil { // a nil *Users in the interface would not be nil
		return nil, cmp.Or(err, fmt.Errorf("the Secret %s names nobody", secret))
	}
	return users, err
}

// parseRealm takes what can stand between quotes in WWW-Authenticate.
func parseRealm(s string) (string, error) {
	if strings.ContainsAny(s, `"\`) {
		return "", errors.New(`" and \ may not be in it`)
	}
	return parseText(s)
}

// extAuth reads whom to ask about requests. With a URL of its own an Ingress has nothing to do with the global one.
func extAuth(r *reader) *policy.ExtAuth {
	_, own := r.written("auth-url")
	r.noGlobals = own || !get(r, "enable-global-auth", parseBool)
	defer func() { r.noGlobals = false }()

	page := urlRule{relative: true, vars: true, hosts: clientHosts()}.parse
	out := policy.ExtAuth{
		URL:             get(r, "auth-url", urlRule{vars: true, hosts: []string{"host", "server_name"}}.parse),
		Method:          get(r, "auth-method", parseMethod),
		SignIn:          get(r, "auth-signin", page),
		RedirectParam:   get(r, "auth-signin-redirect-param", parseParameter),
		ResponseHeaders: get(r, "auth-response-headers", listOf(parseFieldName)),
		Request:         r.fieldsOf("auth-proxy-set-headers", parseFieldName),
		AlwaysSetCookie: get(r, "auth-always-set-cookie", parseBool),
		CacheKey:        get(r, "auth-cache-key", parseKey),
		CacheFor:        get(r, "auth-cache-duration", parseCacheTimes),
		Timeout:         get(r, "auth-timeout", timeIn(100*time.Millisecond, 5*time.Minute)),
		Local:           get(r, "auth-allow-local", parseBool),
	}
	redirect := get(r, "auth-request-redirect", urlRule{relative: true, fragment: true}.parse)
	if redirect != "" {
		out.Request = append(out.Request, policy.Field{Name: "X-Auth-Request-Redirect", Value: redirect})
	}
	if out.CacheKey == "" {
		out.CacheFor = nil
	}
	if out.URL == "" {
		for _, name := range []string{"auth-method", "auth-signin", "auth-response-headers", "auth-request-redirect", "auth-cache-key"} {
			if src, ok := r.written(name); ok {
				r.note(src.key, Ignored, "no effect without auth-url")
			}
		}
		return nil
	}
	return &out
}

// parseParameter takes the name of a query parameter.
func parseParameter(s string) (string, error) {
	for i := range len(s) {
		if c := s[i]; !nameByte(c) && c != '-' && c != '.' {
			return "", fmt.Errorf("%q is not a name of letters, digits and - . _", s)
		}
	}
	return s, nil
}

// parseKey takes a text with variables and returns it in the form of Template.
func parseKey(s string) (string, error) {
	t, err := parseTemplate(s)
	if err != nil {
		return "", err
	}
	if t.constant() {
		return "", errors.New("there is no variable in it, so all requests would share one answer")
	}
	return t.String(), nil
}

// parseCacheTimes takes "200 202 10m, 401 5m". A time alone is for 200, 301 and 302, as in nginx.
func parseCacheTimes(s string) ([]policy.CacheTime, error) {
	var out []policy.CacheTime
	for group := range strings.SplitSeq(s, ",") {
		words := strings.Fields(group)
		if len(words) == 0 {
			return nil, errEmpty
		}
		last := len(words) - 1
		d, err := timeIn(time.Second, year)(words[last])
		if err == nil && digits(words[last]) {
			err = fmt.Errorf("%q is a time without its unit", words[last])
		}
		if err != nil {
			return nil, err
		}
		if last == 0 {
			words = []string{"200", "301", "302", ""}
		}
		for _, w := range words[:len(words)-1] {
			status := 0
			if w != "any" {
				if status, err = intIn(100, 599)(w); err != nil {
					return nil, fmt.Errorf("%q is neither a status nor any", w)
				}
			}
			out = append(out, policy.CacheTime{Status: status, For: d})
		}
	}
	return out, nil
}

// fieldsOf reads the ConfigMap that an annotation names. Its keys are the names of header fields.
func (r *reader) fieldsOf(name string, field func(string) (string, error)) []policy.Field {
	object, at := lookup(r, name, r.object)
	if object == "" {
		return nil
	}
	a := r.index.served(name)
	if r.in.ConfigMapData == nil {
		return nil
	}
	data, ok := r.in.ConfigMapData(object)
	if !ok {
		r.bad(a, at, fmt.Errorf("there is no ConfigMap %s", object))
		return nil
	}
	out, errs := fields(data, field)
	for _, err := range errs {
		r.bad(a, at, fmt.Errorf("the ConfigMap %s: %w", object, err))
	}
	return out
}

// fields turns the data of a ConfigMap into header fields in order of their names. What is wrong is left out.
func fields(data map[string]string, name func(string) (string, error)) (out []policy.Field, errs []error) {
	for _, key := range slices.Sorted(maps.Keys(data)) {
		n, err := name(key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		value := trim(data[key])
		if err := cmp.Or(clean(value, false), second(parseText(value))); err != nil {
			errs = append(errs, fmt.Errorf("%s: the value %w", n, err))
			continue
		}
		out = append(out, policy.Field{Name: http.CanonicalHeaderKey(n), Value: value})
	}
	slices.SortStableFunc(out, func(a, b policy.Field) int { return strings.Compare(a.Name, b.Name) })
	return out, errs
}

func second[T any](_ T, err error) error { return err }
