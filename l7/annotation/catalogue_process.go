package annotation

// processEntries is the keys of the ConfigMap that are not defaults of annotations.
var processEntries = [...]Annotation{
	{
		Name: "http-redirect-code", Group: "Redirects", Scope: Process, Values: "301, 302, 307 or 308", Default: "308", Global: "http-redirect-code", Text: "The status of redirects to https and between hosts with and without `www.`.",
	},
	{
		Name: "no-tls-redirect-locations", Group: "Redirects", Scope: Process, Values: "a list of paths", Default: "/.well-known/acme-challenge", Global: "no-tls-redirect-locations", Text: "Paths beginning so are not redirected to https.",
	},
	{
		Name: "no-auth-locations", Group: "Access", Scope: Process, Values: "a list of paths", Default: "/.well-known/acme-challenge", Global: "no-auth-locations", Text: "Rules with paths beginning so ask for no authentication.",
	},
	{
		Name: "auth-allow-local", Group: "Access", Scope: Process, Values: "true or false", Default: "false", Global: "auth-allow-local", Text: "auth-url may lead to this machine or to link-local addresses.",
	},
	{
		Name: "refused-annotations", Group: "Access", Scope: Process, Values: "close or ignore", Default: "close", Global: "refused-annotations",
		Text: "ignore serves rules whose Ingress has annotations that are refused, as if they were not there. For migrations, and only if none of them protects anything.",
	},
	{
		Name: "limit-req-status-code", Group: "Limits", Scope: Process, Values: "a status from 400 to 599", Default: "429", NginxDefault: "503", Global: "limit-req-status-code", Text: "What clients get who ask too often.",
	},
	{
		Name: "limit-conn-status-code", Group: "Limits", Scope: Process, Values: "a status from 400 to 599", Default: "429", NginxDefault: "503", Global: "limit-conn-status-code", Text: "The same for limit-connections, where it is the only limit.",
	},
	{
		Name: "block-cidrs", Group: "Access", Scope: Process, Values: "a list of addresses and ranges", Global: "block-cidrs", Text: "Connections from there are refused.",
	},
	{
		Name: "block-user-agents", Group: "Access", Scope: Process, Values: "a list with commas: texts, or patterns beginning with `~` or, ignoring case, `~*`", Global: "block-user-agents", Text: "Requests with such a `User-Agent` get 403.",
	},
	{
		Name: "block-referers", Group: "Access", Scope: Process, Values: "a list with commas: texts, or patterns beginning with `~` or, ignoring case, `~*`", Global: "block-referers", Text: "The same for `Referer`.",
	},
	{
		Name: "retry-non-idempotent", Group: "Backends", Scope: Process, Values: "true or false", Default: "false", Global: "retry-non-idempotent", Text: "The same as non_idempotent in proxy-next-upstream.",
	},
	{
		Name: "global-allowed-response-headers", Group: "Header fields", Scope: Process, Values: "a list of names", Global: "global-allowed-response-headers",
		Text: "The only fields that custom-headers and response-headers may set. If it is empty, custom-headers may set none in the dialect of nginx, and else any.",
	},
	{
		Name: "proxy-set-headers", Group: "Header fields", Scope: Process, Values: "the name of a ConfigMap, or namespace/name", Global: "proxy-set-headers", Text: "Its entries are header fields for all backends.",
	},
	{
		Name: "add-headers", Group: "Header fields", Scope: Process, Values: "the name of a ConfigMap, or namespace/name", Global: "add-headers", Text: "Its entries are header fields of all answers.",
	},
	{
		Name: "allow-backend-server-header", Group: "Header fields", Scope: Process, Values: "true or false", Default: "false", Global: "allow-backend-server-header", Text: "Clients see the backend's `Server`.",
	},
	{
		Name: "generate-request-id", Group: "Header fields", Scope: Process, Values: "true or false", Default: "true", Global: "generate-request-id", Text: "Requests without `X-Request-ID` get one.",
	},
	{
		Name: "proxy-add-original-uri-header", Group: "Header fields", Scope: Process, Values: "true or false", Default: "false", Global: "proxy-add-original-uri-header", Text: "Backends get `X-Original-URI`.",
	},
	{
		Name: "use-forwarded-headers", Group: "Clients", Scope: Process, Values: "true or false", Default: "false", Global: "use-forwarded-headers", Text: "Peers in proxy-real-ip-cidr may say who their client is.",
	},
	{
		Name: "proxy-real-ip-cidr", Group: "Clients", Scope: Process, Values: "a list of addresses and ranges", Global: "proxy-real-ip-cidr", Text: "The peers that are trusted with that, and with PROXY protocol. Empty means nobody, not everybody as in ingress-nginx.",
	},
	{
		Name: "forwarded-for-header", Group: "Clients", Scope: Process, Values: "a name", Default: "X-Forwarded-For", Global: "forwarded-for-header", Text: "The field that they say it in.",
	},
	{
		Name: "compute-full-forwarded-for", Group: "Clients", Scope: Process, Values: "true or false", Default: "false", Global: "compute-full-forwarded-for", Text: "The peer is appended to `X-Forwarded-For` instead of replacing it.",
	},
	{
		Name: "enable-forwarded-rfc7239", Group: "Clients", Scope: Process, Own: true, Values: "true or false", Default: "false", Global: "enable-forwarded-rfc7239", Text: "Backends get `Forwarded`, too.",
	},
	{
		Name: "use-proxy-protocol", Group: "Clients", Scope: Process, Values: "true or false", Default: "false", Global: "use-proxy-protocol", Text: "Connections begin with a PROXY protocol header.",
	},
	{
		Name: "proxy-protocol-header-timeout", Group: "Clients", Scope: Process, Values: "a time from 100ms to 1m", Default: "5s", Global: "proxy-protocol-header-timeout", Text: "How long it may take.",
	},
	{
		Name: "enable-underscores-in-headers", Group: "Clients", Scope: Process, Values: "true or false", Default: "false", Global: "enable-underscores-in-headers", Text: "Fields with `_` in their names are passed on.",
	},
	{
		Name: "ignore-invalid-headers", Group: "Clients", Scope: Process, Values: "true", Default: "true", Global: "ignore-invalid-headers", Text: "Requests with malformed names are refused, whatever is written here.",
	},
	{
		Name: "strict-validate-path-type", Group: "Clients", Scope: Process, Values: "true or false", Default: "false", NginxDefault: "true", Global: "strict-validate-path-type", Text: "Paths of type Exact and Prefix may hold letters, digits and `. _ - /` only.",
	},
	{
		Name: "keep-alive", Group: "Listeners", Scope: Process, Values: "a time; 0 switches it off", Default: "75", Global: "keep-alive", Text: "How long a connection of a client may be idle.",
	},
	{
		Name: "keep-alive-requests", Group: "Listeners", Scope: Process, Values: "a number", Default: "10000", Global: "keep-alive-requests", Text: "How many requests it may bring.",
	},
	{
		Name: "client-header-timeout", Group: "Listeners", Scope: Process, Values: "a time from 1s to 1h", Default: "30", Global: "client-header-timeout", Text: "How long the head of a request may take.",
	},
	{
		Name: "client-body-timeout", Group: "Listeners", Scope: Process, Values: "a time from 1s to 1h", Default: "60", Global: "client-body-timeout", Text: "How long a client may pause in its body.",
	},
	{
		Name: "large-client-header-buffers", Group: "Listeners", Scope: Process, Values: "a number and a size, such as `4 8k`", Default: "4 8k", Global: "large-client-header-buffers", Text: "The request line may be as long as the size, the head as long as all of them.",
	},
	{
		Name: "http2-max-concurrent-streams", Group: "Listeners", Scope: Process, Values: "a number from 1 to 10000", Default: "128", Global: "http2-max-concurrent-streams", Text: "How many requests a client may have under way in one connection.",
	},
	{
		Name: "use-http2", Group: "Listeners", Scope: Process, Values: "true or false", Default: "true", Global: "use-http2", Text: "HTTP/2 is offered over TLS.",
	},
	{
		Name: "worker-shutdown-timeout", Group: "Listeners", Scope: Process, Values: "a time", Default: "240s", Global: "worker-shutdown-timeout", Text: "How long requests may go on after the order to stop.",
	},
	{
		Name: "upstream-keepalive-connections", Group: "Connections to backends", Scope: Process, Values: "a number to 100000", Default: "320", Global: "upstream-keepalive-connections", Text: "How many idle connections are kept to an endpoint.",
	},
	{
		Name: "upstream-keepalive-timeout", Group: "Connections to backends", Scope: Process, Values: "a time", Default: "60", Global: "upstream-keepalive-timeout", Text: "For how long.",
	},
	{
		Name: "upstream-keepalive-requests", Group: "Connections to backends", Scope: Process, Values: "a number", Default: "10000", Global: "upstream-keepalive-requests", Text: "How many requests one brings.",
	},
	{
		Name: "upstream-keepalive-time", Group: "Connections to backends", Scope: Process, Values: "a time", Default: "1h", Global: "upstream-keepalive-time", Text: "How old it gets.",
	},
	{
		Name: "ssl-protocols", Group: "TLS", Scope: Process, Values: "a list of TLSv1.2 and TLSv1.3; older ones are left out", Default: "TLSv1.2 TLSv1.3", Global: "ssl-protocols", Text: "The versions that clients may speak.",
	},
	{
		Name: "ssl-ciphers", Group: "TLS", Scope: Process, Values: "a list of names, with colons or commas between them; those that Go does not have are left out", Global: "ssl-ciphers", Text: "The cipher suites of TLS 1.2. Those of TLS 1.3 cannot be chosen.",
	},
	{
		Name: "ssl-session-tickets", Group: "TLS", Scope: Process, Values: "true or false", Default: "true", Global: "ssl-session-tickets", Text: "Clients may resume sessions. The keys change twice a day.",
	},
	{
		Name: "ssl-reject-handshake", Group: "TLS", Scope: Process, Values: "true or false", Default: "false", Global: "ssl-reject-handshake", Text: "Handshakes for hosts without a certificate are refused, instead of getting the default one.",
	},
	{
		Name: "disable-access-log", Group: "Seeing", Scope: Process, Values: "true or false", Default: "false", Global: "disable-access-log", Text: "Nothing is logged, whatever enable-access-log says.",
	},
	{
		Name: "skip-access-log-urls", Group: "Seeing", Scope: Process, Values: "a list of paths", Global: "skip-access-log-urls", Text: "Requests for paths beginning so are not logged.",
	},
	{
		Name: "log-format-upstream", Group: "Seeing", Scope: Process, Values: "a template of nginx", Global: "log-format-upstream", Text: "How requests are logged. Otherwise as JSON.",
	},
	{
		Name: "log-format-escape-json", Group: "Seeing", Scope: Process, Values: "true or false", Default: "false", Global: "log-format-escape-json", Text: "Values are escaped as in JSON.",
	},
}
