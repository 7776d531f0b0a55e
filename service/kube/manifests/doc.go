// Package manifests reads Services, EndpointSlices and Nodes from YAML and JSON
// files: what `kubectl get -o yaml` prints and `kubectl apply` takes.
//
// [Load] reads files once. A [Source] feeds a Sink from a folder and follows its
// changes; the folder then is what the API server is elsewhere.
//
// # Strictness
//
// A file cannot be admitted by an API server, so everything is checked here: a
// field that does not exist, a value of the wrong type, a key given twice. Such
// an [Error] names the file, the line and the field. It rejects the object and
// nothing else. A [Source] that had an earlier version of a rejected object in
// force keeps it, and forgets no object of a file until all of that file can be
// read: a typing mistake never takes a Service away.
//
// # Files
//
// Files end in .yaml, .yml or .json and do not begin with a dot. A file may hold
// several documents, and Lists. Objects of other kinds are skipped. Of two
// objects with the same kind and name the first counts, in the order of file
// names. Merge keys (<<) are not supported, anchors are.
//
// Write a new file and rename it, as editors and ConfigMap volumes do. A file
// changed in place is read once it was left alone for a moment.
package manifests
