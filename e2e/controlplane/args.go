//go:build linux

package controlplane

import (
	"slices"
	"strconv"
)

func (c *Cluster) etcdArgs() []string {
	// The advertised addresses are only ever compared with each other: a single
	// member dials nobody, and the API server is told the socket.
	const nowhere = "http://127.0.0.1:2380"
	return []string{
		"--name=default",
		"--data-dir=" + c.path("etcd"),
		"--listen-client-urls=unix://" + c.etcdSocket(),
		"--advertise-client-urls=" + nowhere,
		"--listen-peer-urls=unix://" + c.path("peer.sock"),
		"--initial-advertise-peer-urls=" + nowhere,
		"--initial-cluster=default=" + nowhere,
		"--unsafe-no-fsync", // the data need not outlive a power cut, only etcd's own restart
		"--log-level=warn",
	}
}

func (c *Cluster) apiServerArgs() []string {
	args := []string{
		"--etcd-servers=unix://" + c.etcdSocket(),

		"--bind-address=" + c.opts.BindAddress.String(),
		"--advertise-address=" + c.opts.AdvertiseAddress.String(),
		"--secure-port=" + strconv.Itoa(int(c.claim.port)),
		"--permit-port-sharing", // with our claim; see portClaim
		"--service-cluster-ip-range=" + c.opts.serviceCIDRs(),

		"--client-ca-file=" + c.path("ca.crt"),
		"--tls-cert-file=" + c.path("apiserver.crt"),
		"--tls-private-key-file=" + c.path("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.path("service-account.pub"),
		"--service-account-signing-key-file=" + c.path("service-account.key"),

		"--authorization-mode=RBAC",
		// Both wait for a controller: the first for every namespace's default
		// ServiceAccount, the second for somebody to take the not-ready taint off
		// a new Node.
		"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
	}
	if c.opts.AdvertiseAddress.IsLoopback() {
		// Endpoints may not be loopback; trying would fail every ten seconds.
		args = append(args, "--endpoint-reconciler-type=none")
	}
	return slices.Concat(args, c.opts.APIServerArgs)
}
