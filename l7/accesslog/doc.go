// Package accesslog writes a line for each request: JSON, or text by a template of nginx.
//
// A request never waits for the log. Its goroutine makes the line in memory and leaves it in a queue of bounded size; one
// goroutine, Log.Run, writes what has come in the order in which it was queued on each CPU. A line that
// finds the queue full is dropped and counted.
//
// # JSON
//
// Fields that would be empty are left out, but for those marked with an asterisk.
//
//	ts*              when the request ended, RFC 3339 in UTC with milliseconds
//	client*          address of the client, after PROXY protocol and trusted X-Forwarded-For
//	method* host*    host in lower case, without its default port
//	path*            as received
//	query            as received, without the question mark
//	proto*           HTTP/1.0, HTTP/1.1 or HTTP/2.0
//	status*          499 if the client has gone before the answer was whole
//	bytes_in* bytes_out*   of the bodies
//	duration*        seconds
//	ingress          namespace/name of the Ingress whose rule counted
//	service          namespace/name:port of the backend
//	upstream_addr upstream_status upstream_time   lists, one element for each try; a status of 0 means no answer
//	tries            how many endpoints were asked; left out if it is at most one
//	user             who basic authentication says it is
//	request_id       X-Request-ID
//	trace_id         of the traceparent (W3C Trace Context)
//	tls_version tls_sni tls_cipher
//	reason           why fairlead itself has answered
//	user_agent referer
//
// Values are cut at some length, the path and the query at 2 KiB, the others at less; "…" stands for the rest.
// What is no UTF-8 becomes U+FFFD.
//
// # Templates
//
// Text with $name or ${name} as in nginx' log_format; Variables lists the names. UpstreamInfo is the format of ingress-nginx. What has no value
// is "-", with EscapeJSON nothing. Bytes that could end a line or a field are escaped as nginx does it. Values are cut at 4 KiB.
package accesslog
