package std

import (
	"sync/atomic"
)

// Stats counts what an Engine sees. All of it only grows but for Open, Active and Tunnels. The zero Stats is ready.
type Stats struct {
	Accepted     atomic.Uint64 // connections
	Open         atomic.Int64  // connections now, those without a server yet as well
	Active       atomic.Int64  // requests now
	Tunnels      atomic.Int64  // now
	Shed         atomic.Uint64 // connections refused because there were too many
	AcceptErrors atomic.Uint64
	Handshakes   atomic.Uint64 // of TLS, that succeeded
	Resumed      atomic.Uint64 // of these, with a session from before
	BadHandshake atomic.Uint64
	BadProxy     atomic.Uint64 // connections without the PROXY header that was wanted, or with one from a stranger
	Passthrough  atomic.Uint64 // connections whose TLS is a backend's
	HTTP2        atomic.Uint64 // connections
	Panics       atomic.Uint64
}
