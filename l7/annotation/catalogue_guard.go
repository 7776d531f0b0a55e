package annotation

// guardEntries is about who gets in, and how often.
var guardEntries = [...]Annotation{
	{
		Name: "allowlist-source-range", Aliases: []string{"whitelist-source-range"}, Group: "Access", Closed: true,
		Values: "a list of addresses and ranges", Global: "whitelist-source-range",
		Text: "Clients with other addresses get 403. The annotation replaces the global list.",
	},
	{
		Name: "denylist-source-range", Group: "Access", Closed: true, Values: "a list of addresses and ranges", Global: "denylist-source-range",
		Text: "Clients with these addresses get 403, even if they are allowed too.",
	},
	{
		Name: "satisfy", Group: "Access", Values: "all or any", Default: "all",
		Text: "any lets in who has an allowed address or authenticates; all wants both.",
	},
	{
		Name: "auth-type", Group: "Basic authentication", Closed: true, Values: "basic",
		Text: "Clients have to say a name and a password. digest is refused: it needs the passwords in clear or as MD5.",
	},
	{
		Name: "auth-secret", Group: "Basic authentication", Closed: true, Values: "the name of a Secret of the namespace",
		Text: "The names and passwords. `Authorization` is not passed on.",
	},
	{
		Name: "auth-secret-type", Group: "Basic authentication", Closed: true, Values: "auth-file or auth-map", Default: "auth-file",
		Text: "auth-file is a file of htpasswd under the key `auth`; with auth-map each key is a name and its value the hashed password.",
	},
	{
		Name: "auth-realm", Group: "Basic authentication", Closed: true, Values: "a text", Default: "Restricted", Text: "What browsers show.",
	},
	{
		Name: "auth-url", Group: "External authentication", Closed: true, Values: "a URL; variables may be in it, in the host `$host` only", Global: "global-auth-url",
		Text: "It is asked about every request: with 2xx the request passes, 401 and 403 are returned, anything else is 500.",
	},
	{
		Name: "auth-method", Group: "External authentication", Closed: true, Values: "GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS", Default: "GET", Global: "global-auth-method",
		Text: "The method to ask with.",
	},
	{
		Name: "auth-signin", Group: "External authentication", Closed: true, Values: "a URL, or a path; variables may be in it", Global: "global-auth-signin",
		Text: "Clients are sent there instead of getting 401.",
	},
	{
		Name: "auth-signin-redirect-param", Group: "External authentication", Closed: true, Values: "a name", Default: "rd", Global: "global-auth-signin-redirect-param",
		Text: "The parameter of auth-signin that says where they came from.",
	},
	{
		Name: "auth-response-headers", Group: "External authentication", Closed: true, Values: "a list of names", Global: "global-auth-response-headers",
		Text: "Header fields of the verdict that the backend gets. The client's own are removed.",
	},
	{
		Name: "auth-request-redirect", Group: "External authentication", Values: "a URL, or a path", Global: "global-auth-request-redirect",
		Text: "`X-Auth-Request-Redirect` of the question. Otherwise what the client asked for.",
	},
	{
		Name: "auth-proxy-set-headers", Group: "External authentication", Closed: true, Values: "the name of a ConfigMap of the namespace",
		Text: "Its entries are header fields of the question.",
	},
	{
		Name: "auth-always-set-cookie", Group: "External authentication", Values: "true or false", Default: "false", Global: "global-auth-always-set-cookie",
		Text: "Cookies of the verdict reach the client whatever the backend's status.",
	},
	{
		Name: "auth-cache-key", Group: "External authentication", Closed: true, Values: "a text with variables, such as `$cookie_session`", Global: "global-auth-cache-key",
		Text: "Verdicts are remembered for requests that have the same text here.",
	},
	{
		Name: "auth-cache-duration", Group: "External authentication", Closed: true, Values: "statuses or `any` and a time, such as `200 202 401 5m`; several with commas between them",
		Default: "200 202 401 5m", Global: "global-auth-cache-duration",
		Text: "How long they are remembered.",
	},
	{
		Name: "auth-timeout", Group: "External authentication", Own: true, Closed: true, Values: "a time from 100ms to 5m", Default: "10", NginxDefault: "60", Global: "global-auth-timeout",
		Text: "How long the verdict may take. Without one there is 500.",
	},
	{
		Name: "enable-global-auth", Group: "External authentication", Values: "true or false", Default: "true",
		Text: "The authentication that the ConfigMap asks for is asked here too, unless there is auth-url.",
	},
	{
		Name: "auth-keepalive", Group: "External authentication", Support: Dead, Values: "a number", Text: "Connections for questions are always kept.",
	},
	{
		Name: "auth-keepalive-requests", Group: "External authentication", Support: Dead, Values: "a number", Text: "Connections for questions are always kept.",
	},
	{
		Name: "auth-keepalive-timeout", Group: "External authentication", Support: Dead, Values: "a time", Text: "Connections for questions are always kept.",
	},
	{
		Name: "auth-keepalive-share-vars", Group: "External authentication", Support: Dead, Values: "true or false", Text: "There are no variables to share.", harmless: []string{"false"},
	},
	{
		Name: "auth-tls-secret", Group: "Client certificates", Scope: Host, Support: Later, Closed: true, Values: "the name of a Secret",
		Text: "Client certificates are not asked for yet. The rules are closed rather than open.",
	},
	{
		Name: "auth-tls-verify-client", Group: "Client certificates", Scope: Host, Support: Later, Values: "on, off, optional or optional_no_ca", Text: "See auth-tls-secret.", harmless: []string{"off"},
	},
	{
		Name: "auth-tls-verify-depth", Group: "Client certificates", Scope: Host, Support: Later, Values: "a number", Text: "See auth-tls-secret.",
	},
	{
		Name: "auth-tls-pass-certificate-to-upstream", Group: "Client certificates", Scope: Host, Support: Later, Values: "true or false", Text: "See auth-tls-secret.", harmless: []string{"false"},
	},
	{
		Name: "auth-tls-error-page", Group: "Client certificates", Scope: Host, Support: Later, Values: "a URL", Text: "See auth-tls-secret.",
	},
	{
		Name: "auth-tls-match-cn", Group: "Client certificates", Scope: Host, Support: Later, Closed: true, Values: "a pattern", Text: "See auth-tls-secret.",
	},
	{
		Name: "limit-connections", Group: "Limits", Closed: true, Values: "a number; 0 means no limit", Default: "0",
		Text: "How many requests a client may have under way at the same time, at each rule and node.",
	},
	{
		Name: "limit-rpm", Group: "Limits", Closed: true, Values: "a number; 0 means no limit", Default: "0",
		Text: "How many requests a client may make in a minute, at each rule and node.",
	},
	{
		Name: "limit-rps", Group: "Limits", Closed: true, Values: "a number; 0 means no limit", Default: "0", Text: "The same in a second.",
	},
	{
		Name: "limit-burst-multiplier", Group: "Limits", Closed: true, Values: "a number from 1 to 1000", Default: "5",
		Text: "How many times the rate may come at once.",
	},
	{
		Name: "limit-allowlist", Aliases: []string{"limit-whitelist"}, Group: "Limits", Closed: true, Values: "a list of addresses and ranges",
		Text: "Clients without limits.",
	},
	{
		Name: "limit-rate", Group: "Limits", Support: Later, Values: "KiB a second", Global: "limit-rate", Text: "The speed of answers is not limited.", harmless: []string{"0"},
	},
	{
		Name: "limit-rate-after", Group: "Limits", Support: Later, Values: "KiB", Global: "limit-rate-after", Text: "See limit-rate.", harmless: []string{"0"},
	},
	{
		Name: "enable-cors", Group: "CORS", Values: "true or false", Default: "false",
		Text: "Preflights are answered with 204, and answers say which origins may read them.",
	},
	{
		Name: "cors-allow-origin", Group: "CORS", Values: "a list of origins such as `https://example.com` and `https://*.example.com:8443`, or `*`", Default: "*",
		Text: "The origins that may. A bad one closes the rule if credentials are allowed, and allows nothing otherwise.",
	},
	{
		Name: "cors-allow-methods", Group: "CORS", Values: "a list of methods", Default: "GET, PUT, POST, DELETE, PATCH, OPTIONS", Text: "The methods that they may use.",
	},
	{
		Name: "cors-allow-headers", Group: "CORS", Values: "a list of names, or `*`",
		Default: "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
		Text:    "The header fields that they may send.",
	},
	{
		Name: "cors-expose-headers", Group: "CORS", Values: "a list of names, or `*`", Text: "The header fields that they may read.",
	},
	{
		Name: "cors-allow-credentials", Group: "CORS", Closed: true, Values: "true or false", Default: "false", NginxDefault: "true",
		Text: "They may send cookies. With `*` for the origins it closes the rule, save in the dialect of nginx, where browsers refuse the answer.",
	},
	{
		Name: "cors-max-age", Group: "CORS", Values: "a time", Default: "1728000", Text: "How long browsers remember preflights.",
	},
}
