// Package watch keeps a Store up to date with an API server, and tells the API
// server, by Events, what is wrong with its objects.
//
// A [Source] lists and watches Services, EndpointSlices and one Node with the
// reflectors of client-go. An object is converted as soon as it is decoded and
// then forgotten: what stays in memory is what the Store holds anyway, plus one
// map entry per object. There is no informer cache.
//
// While the API server is away everything stays in force as it is. The first
// failure and the recovery are logged, not the attempts between. After a relist
// objects that have vanished meanwhile are taken away, in the same change that
// brings the new ones.
//
// The requests are those of kube-proxy, so the ClusterRole system:node-proxier
// is enough: list and watch of services, endpointslices and nodes, and create of
// events.
package watch
