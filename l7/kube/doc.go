// Package kube turns Kubernetes API objects into the input of package ingress:
// Ingresses, IngressClasses, Secrets and ConfigMaps.
//
// The conversions are pure functions. They accept anything that decodes, including what
// no API server would admit but a file can hold. They leave judging to package
// ingress, with these exceptions: names must be names, what is kept of a Secret is what
// L7 can use, and texts that nobody can mean are refused. A Problem says what was
// left out.
//
// The objects come from an API server (l7/kube/watch) or from files ([Folder]). Either hands
// [Change]s to a [Sink].
package kube
