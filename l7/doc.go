// Package l7 serves Ingresses: it makes the Model of package ingress run.
//
//	API objects ─▶ Update ─▶ ingress.Builder ─▶ Delta ─┬▶ route.Table, swapped
//	                                                   ├▶ balance.Pools, by port of a Service
//	Snapshots ──▶ Sync ─▶ endpoints of the Pools       └▶ certs.Table
//
//	request ─▶ engine (package std) ─▶ Server.Handle: who asks ─▶ which rule ─▶ policies ─▶ endpoint, perhaps another ─▶ filters ─▶ answer
//
// The Server is a service.Dataplane: endpoints are those that a client on this node would get at the cluster
// IP (service.Port.Internal), and are chosen nowhere else. It dials pods, so it works beside any dataplane of
// L4, and beside none.
//
// A change of endpoints touches one Pool and no rule. A change of an Ingress compiles its hosts anew and no
// others; requests see the old table or the new one, never half of each.
package l7
