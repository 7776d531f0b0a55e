package policy

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// Page gives the proxy's own errors a body, where they have none: a short text, or JSON for clients that prefer it. To
// gRPC requests it answers in the way of gRPC. It leaves answers of backends (Reason is empty) and redirects alone.
func Page(x *exchange.Exchange) {
	r := x.Response
	if r == nil || r.Reason == "" || r.Status < 400 {
		return
	}
	if isGRPC(&x.Request) {
		grpcPage(x)
		return
	}
	if r.Body != nil {
		return
	}
	body, kind := page(x)
	r.Header.Set("Content-Type", kind)
	r.Header.Set("X-Content-Type-Options", "nosniff")
	if !r.Header.Has("Cache-Control") {
		r.Header.Set("Cache-Control", "no-store")
	}
	r.Length = int64(len(body))
	r.Body = io.NopCloser(strings.NewReader(body))
}

// page is the text of an error, and its type. Nothing in it comes from the client but an ID that was
// looked at.
func page(x *exchange.Exchange) (body, kind string) {
	r := x.Response
	text := http.StatusText(r.Status)
	if text == "" {
		text = "Error"
	}
	if prefersJSON(x.Request.Header) {
		b, err := json.Marshal(struct {
			Status  int    `json:"status"`
			Error   string `json:"error"`
			Reason  string `json:"reason"`
			Request string `json:"requestId,omitempty"`
		}{r.Status, text, r.Reason, x.Request.ID})
		if err == nil {
			return string(b) + "\n", "application/json"
		}
	}
	body = strconv.Itoa(r.Status) + " " + text + "\n" + r.Reason + "\n"
	if x.Request.ID != "" {
		body += "request " + x.Request.ID + "\n"
	}
	return body, "text/plain; charset=utf-8"
}

// prefersJSON reports whether the Accept field ranks JSON before text, by name: nobody gets it for "*/*".
func prefersJSON(h exchange.Header) bool {
	jsonQ, textQ := 0, 0
	for _, f := range h {
		if !strings.EqualFold(f.Name, "Accept") {
			continue
		}
		for kind, q := range weighted(f.Value) {
			switch {
			case strings.EqualFold(kind, "application/json"), strings.EqualFold(kind, "application/problem+json"):
				jsonQ = max(jsonQ, q)
			case strings.EqualFold(kind, "text/html"), strings.EqualFold(kind, "text/plain"), strings.EqualFold(kind, "text/*"):
				textQ = max(textQ, q)
			}
		}
	}
	return jsonQ > textQ
}

// isGRPC reports whether a request is of gRPC, whose clients read the status of a call from grpc-status alone.
func isGRPC(r *exchange.Request) bool {
	const kind = "application/grpc"
	v := r.Header.Get("Content-Type")
	if len(v) < len(kind) || !strings.EqualFold(v[:len(kind)], kind) {
		return false
	}
	return len(v) == len(kind) || v[len(kind)] == '+' || v[len(kind)] == ';'
}

// grpcPage turns an error of the proxy into a response of gRPC that has trailers only: they are in the header.
func grpcPage(x *exchange.Exchange) {
	r := x.Response
	if r.Body != nil {
		r.Body.Close()
	}
	code := grpcStatus(r.Status)
	text := http.StatusText(r.Status)
	r.Header.DelFunc(func(f exchange.Field) bool { return begins(f.Name, "Content-") || begins(f.Name, "Grpc-") })
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("grpc-status", strconv.Itoa(code))
	r.Header.Set("grpc-message", escapeMessage(strconv.Itoa(r.Status)+" "+text+": "+r.Reason))
	r.Status, r.Length, r.Body, r.Trailer = 200, 0, nil, nil
}

// grpcStatus is gRPC's code for an HTTP status: that of the gRPC project's own table, and for a backend that did not answer
// in time, DEADLINE_EXCEEDED.
func grpcStatus(status int) int {
	switch status {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 408, 504:
		return 4 // DEADLINE_EXCEEDED
	case 413:
		return 8 // RESOURCE_EXHAUSTED
	case 429, 502, 503:
		return 14 // UNAVAILABLE
	default:
		return 2 // UNKNOWN
	}
}

// escapeMessage percent-encodes what may not stand in grpc-message.
func escapeMessage(s string) string {
	return escape(s, func(c byte) bool { return c >= ' ' && c <= '~' && c != '%' })
}
