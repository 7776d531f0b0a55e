package annotation

// routingEntries is about redirects, paths and hosts.
var routingEntries = [...]Annotation{
	{
		Name: "ssl-redirect", Group: "Redirects", Values: "true or false", Default: "true", Global: "ssl-redirect",
		Text: "Requests in plain text are sent to https with status 308, if there is a certificate for their host.",
	},
	{
		Name: "force-ssl-redirect", Group: "Redirects", Values: "true or false", Default: "false", Global: "force-ssl-redirect",
		Text: "The same without looking for a certificate, for TLS that ends in front of fairlead.",
	},
	{
		Name: "preserve-trailing-slash", Group: "Redirects", Values: "true or false", Default: "true", NginxDefault: "false", Global: "preserve-trailing-slash",
		Text: "Redirects to https keep a slash at the end of the path.",
	},
	{
		Name: "permanent-redirect", Group: "Redirects", Values: "a URL, or a path; variables may be in it",
		Text: "Requests are sent there instead of to a backend.",
	},
	{
		Name: "permanent-redirect-code", Group: "Redirects", Values: "300 to 308; others count as 301", Default: "301",
		Text: "The status of permanent-redirect.",
	},
	{
		Name: "temporal-redirect", Group: "Redirects", Values: "a URL, or a path; variables may be in it",
		Text: "The same for the time being. It wins over permanent-redirect.",
	},
	{
		Name: "temporal-redirect-code", Group: "Redirects", Values: "300 to 307; others count as 302", Default: "302",
		Text: "The status of temporal-redirect.",
	},
	{
		Name: "from-to-www-redirect", Group: "Redirects", Scope: Host, Values: "true or false", Default: "false",
		Text: "The host with `www.` in front, or without it, redirects to this one, unless somebody has a rule for it.",
	},
	{
		Name: "app-root", Group: "Redirects", Values: "a path",
		Text: "Requests for exactly `/` are sent there with status 302.",
	},
	{
		Name: "use-port-in-redirects", Group: "Redirects", Support: Dead, Values: "true or false", Global: "use-port-in-redirects",
		Text: "The port in redirects is the one that clients used.", harmless: []string{"false"},
	},
	{
		Name: "relative-redirects", Group: "Redirects", Support: Later, Values: "true or false", Global: "relative-redirects",
		Text: "Redirects would leave out scheme and host.", harmless: []string{"false"},
	},
	{
		Name: "use-regex", Group: "Paths and hosts", Values: "true or false", Default: "false",
		Text: "Paths of type ImplementationSpecific are patterns (RE2): case is ignored, and they match at the beginning of the path. " +
			"In the dialect of nginx that goes for all paths of the host, whatever their type and Ingress.",
	},
	{
		Name: "rewrite-target", Group: "Paths and hosts", Values: "a path with `$1` or `${1}` for what the groups of the pattern have captured", Closed: true,
		Text: "The path that the backend sees. The query stays. In the dialect of nginx it makes the paths of the host patterns.",
	},
	{
		Name: "x-forwarded-prefix", Group: "Paths and hosts", Values: "a path",
		Text: "`X-Forwarded-Prefix` for the backend, together with rewrite-target only.",
	},
	{
		Name: "upstream-vhost", Group: "Paths and hosts", Values: "a host with or without a port; `$namespace` and `$service_name` may be in it",
		Text: "The `Host` that the backend sees, instead of the client's.",
	},
	{
		Name: "server-alias", Group: "Paths and hosts", Scope: Host, Values: "a list of host names, `*.` may be their beginning",
		Text: "More names for the host. Real rules for such a name win.",
	},
	{
		Name: "default-backend", Group: "Paths and hosts", Values: "the name of a Service of the namespace",
		Text: "It is asked on its first port when the Service of a rule has no endpoints, and for custom-http-errors.",
	},
	{
		Name: "ssl-passthrough", Group: "Paths and hosts", Scope: Host, Values: "true or false", Default: "false",
		Text: "TLS connections for the host go to the backend undecrypted. Nothing else in the Ingress has an effect then. The process must allow it.",
	},
	{
		Name: "canary", Group: "Canary", Values: "true or false", Default: "false",
		Text: "The Ingress takes requests from another one with the same host, path and type. " +
			"Other annotations of it have no effect, save those about load balancing and affinity.",
	},
	{
		Name: "canary-by-header", Group: "Canary", Values: "the name of a header field",
		Text: "Requests with `always` in it go to the canary, with `never` they do not. It is asked first.",
	},
	{
		Name: "canary-by-header-value", Group: "Canary", Values: "a text",
		Text: "Requests with exactly this in the field go to the canary, instead of those with `always`.",
	},
	{
		Name: "canary-by-header-pattern", Group: "Canary", Values: "a pattern (RE2)",
		Text: "Requests in whose field it is found go to the canary. Without effect beside canary-by-header-value.",
	},
	{
		Name: "canary-by-cookie", Group: "Canary", Values: "the name of a cookie",
		Text: "Requests with `always` in it go to the canary, with `never` they do not. It is asked after the header.",
	},
	{
		Name: "canary-weight", Group: "Canary", Values: "a number from 0 to canary-weight-total", Default: "0",
		Text: "So many of canary-weight-total requests go to the canary. It is asked last.",
	},
	{
		Name: "canary-weight-total", Group: "Canary", Values: "a number; less than 100 counts as 100", Default: "100",
		Text: "See canary-weight.",
	},
}
