// Package ingress makes a Model of Ingresses: which hosts are served, which rule of which Ingress
// answers for which path, with which settings, by which backend and with which certificates.
//
// It is pure. Objects come in as the plain types of this package, whoever has read them; nothing
// here looks at a clock, a file or a network. A Builder takes objects one at a time and makes
// anew only what a change touches; Build is a Builder fed with everything at once, and
// both come to the same Model whatever the order was.
//
// Objects are checked as the API server checks them, because not all have come through
// one, or through one as strict as today's. What is wrong becomes a service.Problem, and what
// can still be served is served. Conflicts between Ingresses go to the older one; equal age, to
// the one whose namespace/name is smaller. The other hears who won.
//
// What is not decided here: which endpoints a backend has, and whether it exists at all. A
// BackendKey says which port of which Service is meant, and ChoosePort finds it among those that
// there are.
package ingress
