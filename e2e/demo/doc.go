//go:build linux

// Command demo shows what fairlead does, on this machine and without a cluster:
// it builds a client, two nodes and three pods out of network namespaces, runs
// fairlead on both nodes with a folder of manifests, and sends real packets.
//
// With -l7 it shows Ingresses: fairlead l7 on a node, behind an address of L4 on the
// same node, with the examples of deploy/l7 in force.
//
// It needs root, and leaves nothing behind. The exit status is 1 if anything
// was not as it should be.
package main
