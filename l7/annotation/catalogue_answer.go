package annotation

// answerEntries is about bodies, header fields and pages.
var answerEntries = [...]Annotation{
	{
		Name: "proxy-body-size", Group: "Bodies", Values: "a size; 0 means no limit", Default: "0", NginxDefault: "1m", Global: "proxy-body-size",
		Text: "Requests with larger bodies get 413.",
	},
	{
		Name: "client-body-buffer-size", Group: "Bodies", Values: "a size; more than 1m counts as 1m", Default: "16k", Global: "client-body-buffer-size",
		Text: "Bodies up to this size are read before a backend is asked, so that another one may be asked. Never to disk.",
	},
	{
		Name: "proxy-request-buffering", Group: "Bodies", Values: "on or off", Default: "on", Global: "proxy-request-buffering",
		Text: "off passes every body on as it comes.",
	},
	{
		Name: "use-gzip", Group: "Compression", Own: true, Values: "true or false", Default: "false", Global: "use-gzip", Text: "Answers are compressed with gzip for clients that take it.",
	},
	{
		Name: "gzip-level", Group: "Compression", Own: true, Values: "a number from 1 to 9", Default: "1", Global: "gzip-level", Text: "1 is fastest, 9 is smallest.",
	},
	{
		Name: "gzip-min-length", Group: "Compression", Own: true, Values: "a number of bytes", Default: "256", Global: "gzip-min-length", Text: "Shorter answers are left alone, by brotli too if gzip is on.",
	},
	{
		Name: "gzip-types", Group: "Compression", Own: true, Values: "a list of media types, or `*`", Global: "gzip-types",
		Default: "application/atom+xml application/javascript application/x-javascript application/json application/rss+xml application/vnd.ms-fontobject " +
			"application/x-font-ttf application/x-web-app-manifest+json application/xhtml+xml application/xml font/opentype image/svg+xml image/x-icon " +
			"text/css text/html text/javascript text/plain text/x-component",
		Text: "What is compressed, by either. `text/html` always is.",
	},
	{
		Name: "enable-brotli", Group: "Compression", Own: true, Values: "true or false", Default: "false", Global: "enable-brotli", Text: "The same with brotli, which wins where clients take both.",
	},
	{
		Name: "brotli-level", Group: "Compression", Own: true, Values: "a number from 1 to 11", Default: "4", Global: "brotli-level", Text: "1 is fastest, 11 is smallest.",
	},
	{
		Name: "brotli-min-length", Group: "Compression", Own: true, Values: "a number of bytes", Default: "20", Global: "brotli-min-length", Text: "Shorter answers are left alone, if gzip is off.",
	},
	{
		Name: "custom-http-errors", Group: "Error pages", Values: "a list of statuses from 400 to 599", Global: "custom-http-errors",
		Text: "Answers with these statuses are replaced by what default-backend has to say. The status stays. Verdicts of authentication are never replaced.",
	},
	{
		Name: "disable-proxy-intercept-errors", Group: "Error pages", Values: "true or false", Default: "false", Global: "disable-proxy-intercept-errors",
		Text: "custom-http-errors has no effect here.",
	},
	{
		Name: "custom-headers", Group: "Header fields", Values: "the name of a ConfigMap of the namespace",
		Text: "Its entries are header fields of answers, as far as global-allowed-response-headers lists them.",
	},
	{
		Name: "response-headers", Group: "Header fields", Own: true, Values: "lines such as `Cache-Control: no-store`; without a value the field is removed",
		Text: "Header fields of answers.", lines: true,
	},
	{
		Name: "request-headers", Group: "Header fields", Own: true, Values: "lines such as `X-Tenant: a`; without a value the field is removed",
		Text: "Header fields for the backend.", lines: true,
	},
	{
		Name: "hide-headers", Group: "Header fields", Own: true, Values: "a list of names", Global: "hide-headers",
		Text: "Header fields of the backend's answers that clients do not see.",
	},
	{
		Name: "hsts", Group: "HSTS", Own: true, Values: "true or false", Default: "false", NginxDefault: "true", Global: "hsts",
		Text: "Answers over TLS tell browsers to use nothing else from now on (`Strict-Transport-Security`).",
	},
	{
		Name: "hsts-max-age", Group: "HSTS", Own: true, Values: "a time", Default: "31536000", Global: "hsts-max-age", Text: "For how long.",
	},
	{
		Name: "hsts-include-subdomains", Group: "HSTS", Own: true, Values: "true or false", Default: "false", NginxDefault: "true", Global: "hsts-include-subdomains", Text: "For all hosts below, too.",
	},
	{
		Name: "hsts-preload", Group: "HSTS", Own: true, Values: "true or false", Default: "false", Global: "hsts-preload", Text: "Browsers may have it built in.",
	},
	{
		Name: "enable-access-log", Group: "Seeing", Values: "true or false", Default: "true", Text: "Requests are logged.",
	},
	{
		Name: "enable-opentelemetry", Group: "Seeing", Support: Later, Values: "true or false", Global: "enable-opentelemetry",
		Text: "No spans are sent. `traceparent` is passed on.", harmless: []string{"false"},
	},
	{
		Name: "opentelemetry-trust-incoming-span", Group: "Seeing", Support: Later, Values: "true or false", Text: "See enable-opentelemetry.",
	},
	{
		Name: "opentelemetry-operation-name", Group: "Seeing", Support: Later, Values: "a text", Text: "See enable-opentelemetry.",
	},
}
