package annotation

// otherEntries is what is not honoured, with the reasons.
var otherEntries = [...]Annotation{
	{
		Name: "mirror-target", Group: "Not yet", Support: Later, Values: "a URL", Text: "Requests are not sent to a second place yet.",
	},
	{
		Name: "mirror-host", Group: "Not yet", Support: Later, Values: "a host", Text: "See mirror-target.",
	},
	{
		Name: "mirror-request-body", Group: "Not yet", Support: Later, Values: "on or off", Text: "See mirror-target.",
	},
	{
		Name: "ssl-ciphers", Group: "Not yet", Scope: Host, Support: Later, Values: "names of OpenSSL",
		Text: "Cipher suites are chosen for the whole process, by the key ssl-ciphers of the ConfigMap.",
	},
	{
		Name: "ssl-prefer-server-ciphers", Group: "Without meaning", Scope: Host, Support: Dead, Values: "true or false", Text: "The server's order always counts.",
	},
	{
		Name: "http2-push-preload", Group: "Without meaning", Support: Dead, Values: "true or false", Text: "No browser takes pushes any more.", harmless: []string{"false"},
	},
	{
		Name: "enable-rewrite-log", Group: "Without meaning", Support: Dead, Values: "true or false", Text: "The access log shows the path that was asked for.", harmless: []string{"false"},
	},
	{
		Name: "enable-opentracing", Group: "Without meaning", Support: Dead, Values: "true or false", Text: "ingress-nginx has dropped it too.", harmless: []string{"false"},
	},
	{
		Name: "opentracing-trust-incoming-span", Group: "Without meaning", Support: Dead, Values: "true or false", Text: "ingress-nginx has dropped it too.",
	},
	{
		Name: "enable-influxdb", Group: "Without meaning", Support: Dead, Values: "true or false", Text: "ingress-nginx has dropped it too.", harmless: []string{"false"},
	},
	{
		Name: "influxdb-measurement", Group: "Without meaning", Support: Dead, Values: "a text", Text: "ingress-nginx has dropped it too.",
	},
	{
		Name: "influxdb-port", Group: "Without meaning", Support: Dead, Values: "a port", Text: "ingress-nginx has dropped it too.",
	},
	{
		Name: "influxdb-host", Group: "Without meaning", Support: Dead, Values: "a host", Text: "ingress-nginx has dropped it too.",
	},
	{
		Name: "influxdb-server-name", Group: "Without meaning", Support: Dead, Values: "a text", Text: "ingress-nginx has dropped it too.",
	},
	{
		Name: "global-rate-limit", Group: "Without meaning", Support: Dead, Values: "a number", Text: "ingress-nginx has dropped it too. Use limit-rps or limit-rpm, which count at each node.", harmless: []string{"0"},
	},
	{
		Name: "global-rate-limit-window", Group: "Without meaning", Support: Dead, Values: "a time", Text: "See global-rate-limit.",
	},
	{
		Name: "global-rate-limit-key", Group: "Without meaning", Support: Dead, Values: "a text with variables", Text: "See global-rate-limit.",
	},
	{
		Name: "global-rate-limit-ignored-cidrs", Group: "Without meaning", Support: Dead, Values: "a list of ranges", Text: "See global-rate-limit.",
	},
	{
		Name: "secure-backends", Group: "Without meaning", Support: Dead, Values: "true or false", Text: "ingress-nginx has dropped it too. Use backend-protocol.", harmless: []string{"false"},
	},
	{
		Name: "grpc-backend", Group: "Without meaning", Support: Dead, Values: "true or false", Text: "ingress-nginx has dropped it too. Use backend-protocol.", harmless: []string{"false"},
	},
	{
		Name: "configuration-snippet", Group: "Refused", Support: Never, Closed: true, Values: "text of nginx",
		Text: "There is no nginx here, and whoever may write its configuration may read all Secrets of the cluster (CVE-2021-25742). What it does has to be said with other annotations.",
	},
	{
		Name: "server-snippet", Group: "Refused", Scope: Host, Support: Never, Closed: true, Values: "text of nginx", Text: "See configuration-snippet.",
	},
	{
		Name: "stream-snippet", Group: "Refused", Support: Never, Values: "text of nginx", Text: "See configuration-snippet. Streams are Services of fairlead's other layer.",
	},
	{
		Name: "auth-snippet", Group: "Refused", Support: Never, Closed: true, Values: "text of nginx", Text: "See configuration-snippet. auth-proxy-set-headers adds header fields to the question.",
	},
	{
		Name: "modsecurity-snippet", Group: "Refused", Support: Never, Closed: true, Values: "text of ModSecurity", Text: "See enable-modsecurity.",
	},
	{
		Name: "enable-modsecurity", Group: "Refused", Support: Never, Closed: true, Values: "true or false", harmless: []string{"false"},
		Text: "There is no web application firewall here. Rules that were behind one are closed rather than open.",
	},
	{
		Name: "enable-owasp-core-rules", Group: "Refused", Support: Never, Closed: true, Values: "true or false", Text: "See enable-modsecurity.", harmless: []string{"false"},
	},
	{
		Name: "modsecurity-transaction-id", Group: "Refused", Support: Never, Values: "a text", Text: "See enable-modsecurity.",
	},
	{
		Name: "fastcgi-index", Group: "Refused", Support: Never, Values: "a file", Text: "FastCGI is not spoken. Put a web server in front of the application.",
	},
	{
		Name: "fastcgi-params-configmap", Group: "Refused", Support: Never, Values: "the name of a ConfigMap", Text: "See fastcgi-index.",
	},
}
