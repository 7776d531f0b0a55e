package policy

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPage(t *testing.T) {
	for _, c := range []struct {
		accept string
		kind   string
	}{
		{"", "text/plain; charset=utf-8"},
		{"*/*", "text/plain; charset=utf-8"},
		{"text/html,application/xhtml+xml,*/*;q=0.8", "text/plain; charset=utf-8"},
		{"application/json", "application/json"},
		{"Application/JSON; q=0.5, text/html;q=0.4", "application/json"},
		{"application/json;q=0.4, text/*;q=0.5", "text/plain; charset=utf-8"},
		{"application/json;q=nonsense", "text/plain; charset=utf-8"},
		{"application/json;q=0", "text/plain; charset=utf-8"},
	} {
		x := newExchange(t, "GET", "http://a.example/")
		set(&x.Request.Header, "Accept", c.accept)
		x.Answer(503, "no-endpoints")
		Page(x)
		h := x.Response.Header
		diff(t, "Accept: "+c.accept, h.Get("Content-Type"), c.kind)
		diff(t, "Cache-Control", h.Get("Cache-Control"), "no-store")
		length := x.Response.Length
		body := readBody(t, x)
		diff(t, "length", length, int64(len(body)))
		if c.kind != "application/json" {
			diff(t, "body", body, "503 Service Unavailable\nno-endpoints\nrequest 0123456789abcdef\n")
			continue
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		diff(t, "JSON", got, map[string]any{"status": 503.0, "error": "Service Unavailable", "reason": "no-endpoints", "requestId": "0123456789abcdef"})
	}
}

func TestPageLeavesOthersAlone(t *testing.T) {
	x := newExchange(t, "GET", "http://a.example/")
	x.Response = backend(404, "")
	Page(x)
	if x.Response.Body != nil || len(x.Response.Header) != 0 {
		t.Errorf("the backend's answer was changed: %+v", x.Response)
	}
	x.Redirect(308, "https://a.example/", ReasonHTTPSRedirect)
	Page(x)
	diff(t, "a redirect", lines(x.Response.Header), "Location: https://a.example/\n")
	x.Response = nil
	Page(x)
	if x.Response != nil {
		t.Error("an answer came from nowhere")
	}
}

func TestGRPC(t *testing.T) {
	for _, c := range []struct {
		kind   string
		status int
		want   string // status, grpc-status, grpc-message
	}{
		{"application/grpc", 503, "200 14 503 Service Unavailable: no-endpoints"},
		{"application/grpc+proto", 502, "200 14 502 Bad Gateway: no-endpoints"},
		{"Application/GRPC; x=y", 504, "200 4 504 Gateway Timeout: no-endpoints"},
		{"application/grpc", 401, "200 16 401 Unauthorized: no-endpoints"},
		{"application/grpc", 403, "200 7 403 Forbidden: no-endpoints"},
		{"application/grpc", 404, "200 12 404 Not Found: no-endpoints"},
		{"application/grpc", 429, "200 14 429 Too Many Requests: no-endpoints"},
		{"application/grpc", 400, "200 13 400 Bad Request: no-endpoints"},
		{"application/grpc", 413, "200 8 413 Request Entity Too Large: no-endpoints"},
		{"application/grpc", 500, "200 2 500 Internal Server Error: no-endpoints"},
		{"application/grpc-web", 503, "503  "},
		{"application/json", 503, "503  "},
	} {
		x := newExchange(t, "POST", "http://a.example/", "Content-Type", c.kind)
		x.Answer(c.status, "no-endpoints")
		var none *Pipeline
		none.Apply(x)
		h := x.Response.Header
		got := strings.Join([]string{itoa(x.Response.Status), h.Get("grpc-status"), h.Get("grpc-message")}, " ")
		diff(t, c.kind, got, c.want)
		if x.Response.Status == 200 && (x.Response.Body != nil || x.Response.Length != 0 || h.Get("Content-Type") != "application/grpc") {
			t.Errorf("%s: the answer is not trailers alone: %+v", c.kind, x.Response)
		}
	}
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}
