//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
)

// testHTTP2Trailers sends fields after the body of a request over HTTP/2, to a server that speaks HTTP/2: it gets those that
// may come there, and nothing that it would trust.
func (r *l7Raw) testHTTP2Trailers(t *testing.T) {
	h := r.h2(t)
	id, err := h.open(false, ":method: POST", ":scheme: https", ":authority: grpc.test", ":path: /trailers", "te: trailers",
		"trailer: x-sum, x-forwarded-for, x-real-ip")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(h.WriteData(id, false, []byte("abc")), h.WriteHeaders(http2.HeadersFrameParam{
		StreamID: id, BlockFragment: h.head("x-sum: 17", "x-forwarded-for: 6.6.6.6", "x-real-ip: 6.6.6.6"), EndStream: true, EndHeaders: true,
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := h.outcome(id); got != "200" {
		t.Fatalf("got %s", got)
	}
	f, err := h.ReadFrame()
	data, ok := f.(*http2.DataFrame)
	if err != nil || !ok {
		t.Fatalf("got %v, %v", f, err)
	}
	var seen l7Seen
	if err := json.Unmarshal(data.Data(), &seen); err != nil {
		t.Fatalf("%v in %s", err, data.Data())
	}
	got := map[string][]string{"protocol": {seen.Proto}, "body": {seen.Text}}
	for name, values := range seen.Trailer {
		got[name] = values
	}
	if d := cmp.Diff(got, map[string][]string{"protocol": {"HTTP/2.0"}, "body": {"abc"}, "X-Sum": {"17"}}); d != "" {
		t.Errorf("the server has seen (-got +want):\n%s", d)
	}
}
