// Package document reads and writes the two documents of configuration: KubeProxyConfiguration, in kube-proxy's own
// types, and FairleadConfiguration. It knows their form; what they mean is decided by package main, which puts single
// fields where the flags of the same meaning are.
//
//	parse.go  bytes to documents: which there may be, how strict each is
//	field.go  one field of a document by its path, as text and back
package document
