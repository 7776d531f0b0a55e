// Package controlplane runs a real Kubernetes API server for a test: etcd and
// kube-apiserver as child processes, with fresh certificates, RBAC switched on
// and nothing else. There is no scheduler, no controller and no kubelet, so
// whatever exists is what the test wrote (and what the API server itself keeps:
// the default namespaces, the bootstrap RBAC policy and the Service
// default/kubernetes).
//
//	c, err := controlplane.Start(ctx, controlplane.Options{})
//	if err != nil {
//		t.Fatal(err) // quotes the end of the log of whatever failed
//	}
//	defer c.Close()
//	client, err := kubernetes.NewForConfig(c.RESTConfig())
//	...
//	err = c.StopAPIServer()     // clients see connection refused
//	err = c.StartAPIServer(ctx) // same port, same data
//
// It needs no privilege on loopback. With [Options.NetNS] the API server lives
// inside a network namespace instead, at an address that the nodes of the test
// can route to; entering a namespace needs CAP_SYS_ADMIN over it.
//
// etcd never opens a port: it listens on Unix sockets in the cluster's own
// directory, and so needs neither certificates nor a place in the namespace.
//
// # Binaries
//
// [Binaries] and [KubeProxy] build the programs pinned by the module e2e/tools
// and keep them in $FAIRLEAD_E2E_CACHE, or failing that in fairlead-e2e under
// [os.UserCacheDir], in a folder named after a hash of the pins, the build
// flags and the Go version. The first build costs minutes of CPU: give the
// first run a -timeout to match, or let it be interrupted and run it again,
// since the go command keeps what it had compiled. Old folders are never
// deleted; the whole cache may be removed at any time. [Release] builds programs of
// other releases of Kubernetes, which are not pinned.
//
// The package is for Linux only.
package controlplane
