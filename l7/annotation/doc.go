// Package annotation turns what operators write in annotations of an Ingress, and in
// the ConfigMap of global defaults, into typed values: a policy.Config and the
// settings of routing, balancing and asking backends.
//
// The catalogue (Catalogue) lists every annotation that is known: those under fairlead.io/,
// those of ingress-nginx under nginx.ingress.kubernetes.io/, and those that are refused, with
// the reason. Parse goes by it, and docs/annotations.md is made from it.
//
// # Where a value comes from
//
// Of several, the first that is there and good counts:
//
//  1. the annotation under fairlead.io/,
//  2. the same under nginx.ingress.kubernetes.io/,
//  3. the key of the ConfigMap with the same name, where the catalogue says that there is one,
//  4. the default of the catalogue, of which there are two: one for classes of
//     fairlead (Strict) and one for classes adopted from ingress-nginx (Nginx).
//
// # What happens to bad values
//
// A bad value of an annotation that protects something (authentication, source ranges, limits,
// origins that may use credentials) closes the rule: policy.Config.Refused
// is set, and every request gets 503 until it is mended. Any other bad value counts as
// not written. Both are said in Findings. Nothing that a user writes is ever pasted into
// anything: a value is parsed into what it means, or it is refused, and no value
// with a control byte gets through. The one exception is the newline between the lines of
// request-headers and response-headers, and it is gone after parsing.
//
// Secrets and ConfigMaps are looked up in the Ingress's own namespace only.
//
// Parse is pure and safe for concurrent use: no clock, no I/O, same input, same output.
package annotation
