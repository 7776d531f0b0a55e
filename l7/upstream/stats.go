package upstream

import "sync/atomic"

// Stats counts what a Client does. All of it only grows but for Idle and Active. The zero Stats is ready.
type Stats struct {
	Requests   atomic.Uint64
	Dials      atomic.Uint64
	DialErrors atomic.Uint64
	Reused     atomic.Uint64 // requests on a kept connection
	Stale      atomic.Uint64 // kept connections that turned out to be closed when one was wanted
	Unexpected atomic.Uint64 // kept connections with bytes nobody had asked for
	Expired    atomic.Uint64 // kept connections closed for age or idleness
	Aborted    atomic.Uint64 // requests given up by the client
	Spliced    atomic.Uint64 // bytes of answers which the kernel moved by itself
	Tunnels    atomic.Int64  // open now
	Idle       atomic.Int64  // connections kept now
	Active     atomic.Int64  // connections with a request now
}
