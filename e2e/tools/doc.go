// Package tools holds no code but grpcecho, which needs gRPC. Its go.mod pins the real programs that the
// end-to-end tests measure fairlead against: etcd, kube-apiserver and
// kube-proxy.
//
// It is a module of its own so that the several hundred modules these programs
// need never reach fairlead's go.mod, and so never reach anyone who depends on
// fairlead. The programs are listed there as tools, which keeps "go mod tidy"
// from dropping them. Package e2e/controlplane builds them:
//
//	go build -trimpath -o /tmp/etcd go.etcd.io/etcd/server/v3
//	go build -trimpath -o /tmp/kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
//	go build -trimpath -o /tmp/kube-proxy k8s.io/kubernetes/cmd/kube-proxy
//
// A cold build of all three costs about eight minutes of CPU, six of them for
// kube-apiserver. Built like
// this the Kubernetes programs report a development version; controlplane adds
// the linker flags that make them say which release they are.
//
// To move to another Kubernetes release, change k8s.io/kubernetes and every
// line of the replace block together (v0.X.Y is always the other half of
// v1.X.Y), take the etcd version from the new kubernetes go.mod, and run
// "go mod tidy" in this folder.
package tools
