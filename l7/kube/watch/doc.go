// Package watch keeps the L7 layer up to date with an API server, and tells the API
// server where its Ingresses are served and what is wrong with them.
//
// A [Source] watches Ingresses and IngressClasses, and of Secrets and ConfigMaps
// those that a served Ingress names, and no others: one watch for each name, until
// a namespace has so many that one watch of the namespace costs less. What such a watch
// delivers and nobody has named is forgotten before it is looked at.
//
//	reflectors ──converted objects──► desk ──Changes──► Sink (owner of the Builder)
//	   ▲                               │
//	   └──────── referenced names ─────┘──► Statuses
//
// The desk is one goroutine that owns everything. It holds an Ingress back until
// what it names has been asked for, so that a new Ingress with a certificate is never
// served without it for want of a few milliseconds; nothing waits for long for
// what cannot be read.
//
// While the API server is away everything stays in force. A list that is suddenly
// empty is believed only when it is one: it has a resource version, and asking again gives
// the same.
//
// One of several processes, the leader, writes status and Events: see [Leadership],
// [Statuses] and [Announcer].
package watch
