package policy

import (
	"testing"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

func TestTemplate(t *testing.T) {
	x := newExchange(t, "POST", "https://a.example:8443/x%20y?q=1&r=a%2Bb", "X-Tenant", "t 1", "Cookie", "a=b; Session=s3")
	x.User = "ann"
	x.Target = &exchange.Target{Namespace: "default", Ingress: "web", Service: "shop", Port: "http"}
	for _, c := range []struct {
		text, want string
	}{
		{"plain", "plain"},
		{"$host|${http_host}|$server_name|$best_http_host", "a.example|a.example:8443|a.example|a.example:8443"},
		{"$scheme$pass_access_scheme$server_port", "httpshttps8443"},
		{"$request_uri|$uri$is_args$args", "/x%20y?q=1&r=a%2Bb|/x%20y?q=1&r=a%2Bb"},
		{"$escaped_request_uri", "%2Fx%2520y%3Fq%3D1%26r%3Da%252Bb"},
		{"$remote_addr $remote_user $request_method $request_id", "198.51.100.1 ann POST 0123456789abcdef"},
		{"$namespace/$ingress_name/$service_name/$service_port", "default/web/shop/http"},
		{"$http_x_tenant|$cookie_session|$arg_r|$http_missing|$cookie_x|$arg_x", "t 1|s3|a%2Bb|||"},
		{"$HOST", "a.example"},
		{"5$ and $5 $", "5$ and $5 $"},
	} {
		tmpl, err := parseTemplate(c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		diff(t, c.text, tmpl.expand(x, nil), c.want)
	}
	for _, bad := range []string{"$unknown", "${host", "${}", "${un known}", "$http_", "$cookie_", "$arg_"} {
		if tmpl, err := parseTemplate(bad); err == nil {
			t.Errorf("%q is a template: %v", bad, tmpl)
		}
	}
	x = &exchange.Exchange{}
	tmpl, _ := parseTemplate("$namespace|$remote_addr|$request_uri|$is_args|$server_port")
	diff(t, "an empty exchange", tmpl.expand(x, nil), "||/||80")
}

func TestEscape(t *testing.T) {
	const s = "a/b?c=d&e+f#g\"h i%20\r\n\xff~"
	diff(t, "all", escapeAll(s), "a%2Fb%3Fc%3Dd%26e%2Bf%23g%22h%20i%2520%0D%0A%FF~")
	diff(t, "an URL", escapeURL(s), "a/b?c=d&e+f%23g%22h%20i%20%0D%0A%FF~")
	diff(t, "a query", escapeQuery(s), "a/b?c=d%26e%2Bf%23g%22h%20i%20%0D%0A%FF~")
}
