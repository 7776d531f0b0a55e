package main

// A setting is a flag, and where the documents have what it is about.
type setting struct {
	flag  string
	proxy string // path in KubeProxyConfiguration; empty if there is none
	own   string // path in FairleadConfiguration; empty if there is none

	always bool   // kube-proxy obeys the flag beside --config too
	zero   bool   // an empty field of KubeProxyConfiguration means just that, and not the default
	noop   string // why nothing is done with it; empty if it is obeyed
}

// settings returns every flag of fairlead without a subcommand, but --help and --version.
func settings() []setting {
	return append(append(proxySettings(), logSettings()...), ownSettings()...)
}

// proxySettings are those that kube-proxy has.
func proxySettings() []setting {
	const unread = "kube-proxy accepts it and does not read it either"
	return []setting{
		{flag: "config", always: true},
		{flag: "write-config-to", always: true},
		{flag: "cleanup", always: true},
		{flag: "init-only", always: true},
		{flag: "hostname-override", proxy: "hostnameOverride", always: true},
		{flag: "master", always: true},

		{flag: "kubeconfig", proxy: "clientConnection.kubeconfig"},
		{flag: "kube-api-content-type", proxy: "clientConnection.contentType"},
		{flag: "kube-api-qps", proxy: "clientConnection.qps"},
		{flag: "kube-api-burst", proxy: "clientConnection.burst"},
		{flag: "config-sync-period", proxy: "configSyncPeriod", noop: "objects are watched, and nothing needs to hear again what it has heard"},
		{flag: "feature-gates", proxy: "featureGates"},
		{flag: "bind-address", proxy: "bindAddress"},
		{flag: "bind-address-hard-fail", proxy: "bindAddressHardFail"},
		{flag: "healthz-bind-address", proxy: "healthzBindAddress"},
		{flag: "metrics-bind-address", proxy: "metricsBindAddress"},
		{flag: "healthz-port"},
		{flag: "metrics-port"},
		{flag: "profiling", proxy: "enableProfiling"},
		{flag: "show-hidden-metrics-for-version", proxy: "showHiddenMetricsForVersion", noop: "no metric is hidden"},
		{flag: "oom-score-adj", proxy: "oomScoreAdj"},

		{flag: "proxy-mode", proxy: "mode", own: "modes"},
		{flag: "masquerade-all", proxy: "iptables.masqueradeAll"},
		{flag: "iptables-masquerade-bit", proxy: "iptables.masqueradeBit"},
		{flag: "iptables-localhost-nodeports", proxy: "iptables.localhostNodePorts"},
		{flag: "iptables-sync-period", proxy: "iptables.syncPeriod"},
		{flag: "iptables-min-sync-period", proxy: "iptables.minSyncPeriod"},
		{flag: "ipvs-sync-period", proxy: "ipvs.syncPeriod"},
		{flag: "ipvs-min-sync-period", proxy: "ipvs.minSyncPeriod", zero: true},
		{flag: "ipvs-scheduler", proxy: "ipvs.scheduler"},
		{flag: "ipvs-exclude-cidrs", proxy: "ipvs.excludeCIDRs"},
		{flag: "ipvs-strict-arp", proxy: "ipvs.strictARP"},
		{flag: "ipvs-tcp-timeout", proxy: "ipvs.tcpTimeout"},
		{flag: "ipvs-tcpfin-timeout", proxy: "ipvs.tcpFinTimeout"},
		{flag: "ipvs-udp-timeout", proxy: "ipvs.udpTimeout"},

		{flag: "detect-local-mode", proxy: "detectLocalMode"},
		{flag: "pod-bridge-interface", proxy: "detectLocal.bridgeInterface"},
		{flag: "pod-interface-name-prefix", proxy: "detectLocal.interfaceNamePrefix"},
		{flag: "cluster-cidr", proxy: "clusterCIDR"},
		{flag: "nodeport-addresses", proxy: "nodePortAddresses"},

		{flag: "conntrack-max-per-core", proxy: "conntrack.maxPerCore"},
		{flag: "conntrack-min", proxy: "conntrack.min"},
		{flag: "conntrack-tcp-timeout-established", proxy: "conntrack.tcpEstablishedTimeout"},
		{flag: "conntrack-tcp-timeout-close-wait", proxy: "conntrack.tcpCloseWaitTimeout"},
		{flag: "conntrack-tcp-be-liberal", proxy: "conntrack.tcpBeLiberal"},
		{flag: "conntrack-udp-timeout", proxy: "conntrack.udpTimeout"},
		{flag: "conntrack-udp-timeout-stream", proxy: "conntrack.udpStreamTimeout"},

		{flag: "boot-id-file", always: true, noop: unread},
		{flag: "machine-id-file", always: true, noop: unread},
	}
}

// logSettings are those that kube-proxy has of all components. Their flags win over --config.
func logSettings() []setting {
	const (
		unbuffered = "every line is written at once"
		together   = "all lines go to the error output, in order"
	)
	return []setting{
		{flag: "v", proxy: "logging.verbosity", always: true},
		{flag: "vmodule", proxy: "logging.vmodule", always: true},
		{flag: "logging-format", proxy: "logging.format", always: true},
		{flag: "log-flush-frequency", proxy: "logging.flushFrequency", always: true, noop: unbuffered},
		{flag: "log-text-split-stream", proxy: "logging.options.text.splitStream", always: true, noop: together},
		{flag: "log-json-split-stream", proxy: "logging.options.json.splitStream", always: true, noop: together},
		{flag: "log-text-info-buffer-size", proxy: "logging.options.text.infoBufferSize", always: true, noop: unbuffered},
		{flag: "log-json-info-buffer-size", proxy: "logging.options.json.infoBufferSize", always: true, noop: unbuffered},
	}
}

// ownSettings are those that kube-proxy does not have. Their flags win over both documents.
func ownSettings() []setting {
	return []setting{
		{flag: "fairlead-config"},
		{flag: "manifests", own: "manifests"},
		{flag: "api-decoder", own: "apiDecoder"},
		{flag: "localhost-nodeports-proxy", own: "localhostNodePortsProxy"},
		{flag: "status-socket", own: "statusSocket"},
		{flag: "shutdown-grace", own: "shutdownGrace"},
		{flag: "takeover", own: "takeover"},
		{flag: "iptables-variant", own: "iptables.variant"},
		{flag: "iptables-writer", own: "iptables.writer"},
		{flag: "ipvs-vip-mode", own: "ipvs.vipMode"},
		{flag: "ipvs-drain-timeout", own: "ipvs.drainTimeout"},
		{flag: "userspace-scheduler", own: "userspace.scheduler"},
		{flag: "userspace-port", own: "userspace.port"},
		{flag: "userspace-connect-timeout", own: "userspace.connectTimeout"},
		{flag: "userspace-udp-timeout", own: "userspace.udpTimeout"},
		{flag: "userspace-max-udp-sessions", own: "userspace.maxUDPSessions"},
		{flag: "userspace-eject-outliers", own: "userspace.ejectOutliers"},
		{flag: "l7", own: "l7.enabled"},
		{flag: "l7-arg", own: "l7.args"},
		{flag: "l7-user", own: "l7.user"},
	}
}

// flagless are the fields of KubeProxyConfiguration that no flag is about, and why nothing is done with what they say.
// A field without a reason is nobody's business unless its mode is in force.
func flagless() map[string]string {
	const windows = "it is for Windows"
	return map[string]string{
		"clientConnection.acceptContentTypes": "answers are taken in the type of clientConnection.contentType, and in JSON",
		"portRange":                           "kube-proxy ignores it too",
		"windowsRunAsService":                 windows,
		"winkernel.networkName":               windows,
		"winkernel.sourceVip":                 windows,
		"winkernel.enableDSR":                 windows,
		"winkernel.rootHnsEndpointName":       windows,
		"winkernel.forwardHealthCheckVip":     windows,
		"nftables.masqueradeBit":              "",
		"nftables.masqueradeAll":              "",
		"nftables.syncPeriod":                 "",
		"nftables.minSyncPeriod":              "",
	}
}
