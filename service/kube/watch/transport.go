package watch

import (
	"net/http"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// receiveBuffer is how much of an answer may arrive before it is read, for each
// request. What Go does by itself, 4 MiB, is a tenth of what a process has in use at
// 10,000 Services: when everything is told again, several answers come at once, faster
// than they are decoded. An API server 10 ms away can still send 50 MB/s.
const receiveBuffer = 512 << 10

// limitReceived has rt, or the http.Transport that it leads to, hold no more of an
// answer than receiveBuffer. Connections that there are already stay as they are.
func limitReceived(rt http.RoundTripper) http.RoundTripper {
	next := rt
	for range 10 {
		switch t := next.(type) {
		case *http.Transport:
			if t != http.DefaultTransport && t.HTTP2 == nil {
				t.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: receiveBuffer}
			}
			return rt
		case utilnet.RoundTripperWrapper:
			next = t.WrappedRoundTripper()
		default:
			return rt
		}
	}
	return rt
}
