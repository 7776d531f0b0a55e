package annotation

// backendEntries is about how backends are asked, and which endpoint.
var backendEntries = [...]Annotation{
	{
		Name: "backend-protocol", Group: "Backends", Scope: Backend, Values: "HTTP, HTTPS, GRPC or GRPCS", Default: "HTTP", Closed: true,
		Text: "What the backend speaks. GRPC is HTTP/2 in plain text.",
	},
	{
		Name: "service-upstream", Group: "Backends", Scope: Backend, Values: "true or false", Default: "false", Global: "service-upstream",
		Text: "The cluster IP of the Service is asked, not its endpoints. There is no affinity and no second endpoint then.",
	},
	{
		Name: "proxy-connect-timeout", Group: "Backends", Values: "a time from 100ms", Default: "5", Global: "proxy-connect-timeout",
		Text: "How long connecting to an endpoint may take.",
	},
	{
		Name: "proxy-read-timeout", Group: "Backends", Values: "a time from 1s", Default: "60", Global: "proxy-read-timeout",
		Text: "How long the backend may be silent, not how long the answer may take in all. Also how long a websocket may be idle.",
	},
	{
		Name: "proxy-send-timeout", Group: "Backends", Values: "a time from 1s", Default: "60", Global: "proxy-send-timeout",
		Text: "How long the backend may take no bytes.",
	},
	{
		Name: "proxy-next-upstream", Group: "Backends", Values: "a list of error, timeout, invalid_header, http_500, http_502, http_503, http_504, http_403, http_404, http_429, non_idempotent; or off",
		Default: "error timeout", Global: "proxy-next-upstream",
		Text: "After which failures another endpoint is asked, if the request may be repeated.",
	},
	{
		Name: "proxy-next-upstream-tries", Group: "Backends", Values: "a number to 1000; 0 means no limit", Default: "3", Global: "proxy-next-upstream-tries",
		Text: "How many endpoints are asked in all.",
	},
	{
		Name: "proxy-next-upstream-timeout", Group: "Backends", Values: "a time; 0 means no limit", Default: "0", Global: "proxy-next-upstream-timeout",
		Text: "After this time no other endpoint is asked.",
	},
	{
		Name: "proxy-buffer-size", Group: "Backends", Values: "a size", Default: "64k", Global: "proxy-buffer-size",
		Text: "How large the head of an answer may be. Less than 64k counts as 64k, and more than 1m as 1m.",
	},
	{
		Name: "proxy-buffering", Group: "Backends", Support: Dead, Values: "on or off", Global: "proxy-buffering",
		Text: "Answers are always streamed.", harmless: []string{"off", "false"},
	},
	{
		Name: "proxy-buffers-number", Group: "Backends", Support: Dead, Values: "a number", Global: "proxy-buffers-number", Text: "Answers are always streamed.",
	},
	{
		Name: "proxy-busy-buffers-size", Group: "Backends", Support: Dead, Values: "a size", Global: "proxy-busy-buffers-size", Text: "Answers are always streamed.",
	},
	{
		Name: "proxy-max-temp-file-size", Group: "Backends", Support: Dead, Values: "a size", Global: "proxy-max-temp-file-size", Text: "Nothing is ever written to disk.", harmless: []string{"0"},
	},
	{
		Name: "proxy-http-version", Group: "Backends", Support: Later, Values: "1.0 or 1.1", Global: "proxy-http-version",
		Text: "Backends are asked with HTTP/1.1.", harmless: []string{"1.1"},
	},
	{
		Name: "connection-proxy-header", Group: "Backends", Support: Later, Values: "keep-alive or close",
		Text: "Connections to backends are kept, and upgraded when clients ask for it.", harmless: []string{"keep-alive"},
	},
	{
		Name: "proxy-cookie-domain", Group: "Backends", Support: Later, Values: "two domains", Global: "proxy-cookie-domain",
		Text: "The domain of cookies would be replaced.", harmless: []string{"off"},
	},
	{
		Name: "proxy-cookie-path", Group: "Backends", Support: Later, Values: "two paths", Global: "proxy-cookie-path",
		Text: "The path of cookies would be replaced.", harmless: []string{"off"},
	},
	{
		Name: "proxy-redirect-from", Group: "Backends", Support: Later, Values: "a URL", Global: "proxy-redirect-from",
		Text: "The backend's `Location` would be changed.", harmless: []string{"off"},
	},
	{
		Name: "proxy-redirect-to", Group: "Backends", Support: Later, Values: "a URL", Global: "proxy-redirect-to",
		Text: "The backend's `Location` would be changed.", harmless: []string{"off"},
	},
	{
		Name: "proxy-ssl-secret", Group: "TLS to backends", Scope: Backend, Values: "the name of a Secret of the namespace", Closed: true,
		Text: "With tls.crt and tls.key to show to the backend, and ca.crt to check its certificate by.",
	},
	{
		Name: "proxy-ssl-verify", Group: "TLS to backends", Scope: Backend, Values: "on or off", Default: "off", Closed: true,
		Text: "The backend's certificate is checked against ca.crt of proxy-ssl-secret.",
	},
	{
		Name: "proxy-ssl-name", Group: "TLS to backends", Scope: Backend, Values: "a host name", Closed: true,
		Text: "The name that the certificate has to be for, and that is sent as SNI.",
	},
	{
		Name: "proxy-ssl-server-name", Group: "TLS to backends", Scope: Backend, Values: "on or off", Default: "on", NginxDefault: "off",
		Text: "SNI is sent to the backend.",
	},
	{
		Name: "proxy-ssl-protocols", Group: "TLS to backends", Scope: Backend, Values: "a list of TLSv1.2 and TLSv1.3; older ones are left out", Closed: true,
		Text: "The versions of TLS that the backend may speak.",
	},
	{
		Name: "proxy-ssl-verify-depth", Group: "TLS to backends", Scope: Backend, Support: Dead, Values: "a number",
		Text: "Chains are checked whatever their length.",
	},
	{
		Name: "proxy-ssl-ciphers", Group: "TLS to backends", Scope: Backend, Support: Dead, Values: "names of OpenSSL",
		Text: "The cipher suites are Go's, all of which are safe.",
	},
	{
		Name: "load-balance", Group: "Load balancing", Scope: Backend, Values: "round_robin, least_requests, ewma, hash or ip_hash", Default: "round_robin", Global: "load-balance",
		Text: "How an endpoint is chosen. hash needs upstream-hash-by.",
	},
	{
		Name: "upstream-hash-by", Group: "Load balancing", Scope: Backend, Values: "a text with variables, such as `$request_uri`",
		Text: "Equal texts lead to the same endpoint. It wins over load-balance.",
	},
	{
		Name: "upstream-hash-by-subset", Group: "Load balancing", Scope: Backend, Support: Later, Values: "true or false",
		Text: "Equal texts lead to one endpoint, not to a few.", harmless: []string{"false"},
	},
	{
		Name: "upstream-hash-by-subset-size", Group: "Load balancing", Scope: Backend, Support: Later, Values: "a number", Text: "See upstream-hash-by-subset.",
	},
	{
		Name: "max-fails", Group: "Load balancing", Scope: Backend, Own: true, Values: "a number from 0 to 1000; 0 switches it off", Global: "max-fails",
		Text: "After so many failures an endpoint is left out for a while. Unless it is written, five in a row and growing times.",
	},
	{
		Name: "fail-timeout", Group: "Load balancing", Scope: Backend, Own: true, Values: "a time from 1s to 1h", Global: "fail-timeout",
		Text: "The time within which max-fails failures count, and for which the endpoint is left out then.",
	},
	{
		Name: "slow-start", Group: "Load balancing", Scope: Backend, Own: true, Values: "a time to 1h", Default: "0", Global: "slow-start",
		Text: "An endpoint that is new or back gets its full share after this time, and less until then.",
	},
	{
		Name: "health-check-path", Group: "Load balancing", Scope: Backend, Own: true, Values: "a path",
		Text: "Every endpoint is asked for it again and again, by this process.",
	},
	{
		Name: "health-check-method", Group: "Load balancing", Scope: Backend, Own: true, Values: "GET, HEAD or OPTIONS", Default: "GET", Text: "The method of health checks.",
	},
	{
		Name: "health-check-host", Group: "Load balancing", Scope: Backend, Own: true, Values: "a host with or without a port", Text: "The `Host` of health checks. Otherwise the endpoint's address.",
	},
	{
		Name: "health-check-interval", Group: "Load balancing", Scope: Backend, Own: true, Values: "a time from 1s to 1h", Default: "5s", Text: "The time between two health checks.",
	},
	{
		Name: "health-check-timeout", Group: "Load balancing", Scope: Backend, Own: true, Values: "a time from 100ms to 1m", Default: "1s", Text: "How long one may take.",
	},
	{
		Name: "health-check-rise", Group: "Load balancing", Scope: Backend, Own: true, Values: "a number from 1 to 100", Default: "2", Text: "How many good ones in a row bring an endpoint back.",
	},
	{
		Name: "health-check-fall", Group: "Load balancing", Scope: Backend, Own: true, Values: "a number from 1 to 100", Default: "3", Text: "How many bad ones in a row take it out.",
	},
	{
		Name: "health-check-expected-codes", Group: "Load balancing", Scope: Backend, Own: true, Values: "a list of statuses, of ranges such as 200-299 and of classes such as 2xx", Default: "200-399", Text: "The statuses that are good.",
	},
	{
		Name: "affinity", Group: "Affinity", Scope: Backend, Values: "cookie",
		Text: "The requests of a client go to one endpoint, which a cookie remembers.",
	},
	{
		Name: "affinity-mode", Group: "Affinity", Scope: Backend, Values: "balanced or persistent", Default: "balanced",
		Text: "balanced moves some clients when endpoints come; persistent moves them only when theirs goes.",
	},
	{
		Name: "affinity-canary-behavior", Group: "Affinity", Scope: Backend, Values: "sticky or legacy", Default: "sticky",
		Text: "sticky keeps clients at the canary, or away from it; legacy asks anew each time.",
	},
	{
		Name: "session-cookie-name", Group: "Affinity", Scope: Backend, Values: "a token", Default: "INGRESSCOOKIE", Text: "The name of the cookie.",
	},
	{
		Name: "session-cookie-path", Group: "Affinity", Scope: Backend, Values: "a path", Text: "Its path. Otherwise the path of the rule, or `/` where that is a pattern.",
	},
	{
		Name: "session-cookie-domain", Group: "Affinity", Scope: Backend, Values: "a domain", Text: "Its domain. Otherwise the host alone.",
	},
	{
		Name: "session-cookie-samesite", Group: "Affinity", Scope: Backend, Values: "None, Lax or Strict", Text: "Its attribute `SameSite`.",
	},
	{
		Name: "session-cookie-secure", Group: "Affinity", Scope: Backend, Values: "true or false", Text: "Its attribute `Secure`. Otherwise it is there when the client speaks TLS.",
	},
	{
		Name: "session-cookie-max-age", Group: "Affinity", Scope: Backend, Values: "a time, which may be negative", Text: "Its attribute `Max-Age`. Otherwise it ends with the browser's session.",
	},
	{
		Name: "session-cookie-expires", Group: "Affinity", Scope: Backend, Values: "a time from now, which may be negative", Text: "Its attribute `Expires`.",
	},
	{
		Name: "session-cookie-change-on-failure", Group: "Affinity", Scope: Backend, Values: "true or false", Default: "false",
		Text: "The client stays at the endpoint that has answered after its own has failed.",
	},
	{
		Name: "session-cookie-partitioned", Group: "Affinity", Scope: Backend, Support: Later, Values: "true or false",
		Text: "The attribute `Partitioned` of the cookie.", harmless: []string{"false"},
	},
	{
		Name: "session-cookie-conditional-samesite-none", Group: "Affinity", Scope: Backend, Support: Never, Values: "true or false",
		Text: "`SameSite=None` would depend on guesses from the `User-Agent` about browsers of 2018.", harmless: []string{"false"},
	},
}
