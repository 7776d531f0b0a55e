// Package kube turns Kubernetes API objects into the input of package service.
//
// The three conversions, [Service], [Slice] and [Node], are pure functions. They
// accept anything that decodes, including what the API server would never admit
// but a file can hold: they never panic, they serve every valid part of an
// object, and they describe the rest as Problems that name the object and the
// field. What they return is checked and normalised:
//
//   - names fit in a rule comment: lower-case DNS names without surprises;
//   - addresses are unmapped and carry no zone, and no address a Service could
//     never answer (unspecified, loopback, multicast, broadcast) is among them;
//   - port numbers are never zero, prefixes are masked;
//   - a [service.Scheduling] names algorithms and flags that exist and go together,
//     flags sorted, and a weight is never 1, which 0 stands for;
//   - no (port name, protocol) and no (port number, protocol) occurs twice in a
//     Service.
//
// The rules are those of kube-proxy 1.36, with one difference: a source range
// that cannot be parsed leaves the Service restricted instead of open. Besides,
// annotations say how connections are shared out: see [AnnotationScheduler].
//
// L7 is a client of Services and wants more of them: [AnyService] and [AnySlice] are
// for it, and a [Converter] with All. Whoever does not ask sees none of that.
//
// The sources of objects, kube/watch and kube/manifests, share the rest: a
// [Converter] makes an [Entry] of an object, and a [Mirror] turns what a source
// has seen into changes of the Store behind a [Sink].
//
// Objects are converted as they arrive and not kept. A [Converter] lets
// many slices share what they say.
package kube
