// Package balance chooses the endpoint that answers a request, and remembers
// what became of earlier ones.
//
// A [Pool] is the endpoints of one port of one Service, as package service has
// chosen them, with all that this process knows of each: requests in flight,
// latency, failures, what active checks say. It is shared by every rule that
// leads there, so that what one rule learns helps the others. A [Balancer] is
// how one rule chooses among them:
//
//	pool := balance.NewPool("shop/cart:80", balance.Options{Checker: checker})
//	pool.Set(route.Pool, port.Serving)       // whenever the Snapshot says so
//	b := pool.Balancer(cfg)                  // one for each rule; no need to close it
//
//	q := balance.Pick{Client: client, Session: cookie}
//	ep, ok := b.Pick(&q)                     // !ok: no endpoint, 503
//	ep.Begin()
//	ep.Report(balance.Answered, latency)     // at the head of the answer, or of the failure
//	ep.End()                                 // at the end of its body
//	if q.Fresh { …Set-Cookie: cfg.Sticky.SetCookie(q.Session, …) }
//
// A retry calls Pick again with the same Pick, to whose Tried the endpoint has
// been appended.
//
// # What a choice costs
//
// Choosing allocates nothing and takes no lock, except that a new sticky session
// makes its cookie. Time does not depend on the size of the pool, save for:
//
//   - weights that have no short cycle, and weighted sampling: O(log n);
//   - hashing: O(n) for the first request of each of 65,536 slots after a
//     change, and in pools of up to 32 endpoints, where that is faster than
//     remembering; and O(n) for a request whose endpoint is out or was tried
//     in vain;
//   - a retry that finds several endpoints tried: O(n) at worst.
//
// Changes (endpoints come and go, are ejected or return) are published as one
// immutable value in O(n); a Balancer makes what it derives from it when it is
// next asked.
//
// # What every node decides alike
//
// Hashing and sticky sessions depend on the request, on the endpoints' addresses
// and on weights only, so every node that has the same endpoints sends a client to the same
// one. They go by rendezvous: an endpoint that leaves or comes moves only the
// requests that it had or gets.
//
// # Health
//
// An endpoint is out while its ejection for failures lasts ([Passive]) or while
// active checks fail ([Check]). Those that are out get no requests unless all are:
// then all are used, since a wrong guess must not be an outage. After an ejection one
// request is let through; what becomes of it decides. Endpoints that are back, and new ones beside
// old ones, may be given their share little by little (slow start).
//
// An endpoint that no new request may be sent to but that still serves keeps its sticky
// sessions until it is gone.
package balance
