// Package upstream asks endpoints: it takes an Exchange to one address and brings the answer back.
//
// HTTP/1.1 goes over connections of its own, kept open between requests. A plain request is written and
// its answer read by the goroutine that asks; there is none per connection and none per request,
// unless a body is still coming from the client while the endpoint may answer already:
//
//	Do ── connection kept or dialled ── head and small body in one write ── head of the answer ──▶ Response
//	                                      └─ long body: a goroutine of its own ─┘                    │
//	                        back to the pool ◀── at the end of the body, if all is in order ─────────┘
//
// The Body of an answer can write itself (io.WriterTo). Where both sides are plain TCP and the length
// is known, the kernel then moves the bytes (splice) and none of them comes by here.
//
// HTTP/2, which gRPC needs, goes through net/http's Transport, one for each endpoint.
//
// Which endpoint to ask, whether to ask another one, and what the client is told is decided by
// others. An Error has the facts for that.
package upstream
