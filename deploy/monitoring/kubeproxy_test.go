package monitoring

// An upstreamMetric is a metric of kube-proxy 1.36, and whether fairlead has it.
type upstreamMetric struct {
	name   string
	kind   string
	labels []string
	modes  string // kube-proxy's that have it
	here   bool   // in fairlead's modes that have the quantity
	remark string
}

// upstreamMetrics are all that kube-proxy itself defines on Linux.
func upstreamMetrics() []upstreamMetric {
	family := []string{"ip_family"}
	const finer = "buckets from 0.1 ms on"
	return []upstreamMetric{
		{"kubeproxy_sync_proxy_rules_duration_seconds", "histogram", family, "all", true, "both families are synced at once and have the same values; " + finer},
		{"kubeproxy_sync_full_proxy_rules_duration_seconds", "histogram", family, "iptables, nftables", true, "syncs that read the kernel first, in every mode; " + finer},
		{"kubeproxy_sync_partial_proxy_rules_duration_seconds", "histogram", family, "iptables, nftables", true, "syncs that write a difference, in every mode; " + finer},
		{"kubeproxy_network_programming_duration_seconds", "histogram", family, "all", true, "buckets from 5 ms on"},
		{"kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge", family, "all", true, ""},
		{"kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge", family, "all", true, ""},
		{"kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge", nil, "all", true, ""},
		{"kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter", nil, "all", true, "a change counts once, where kube-proxy counts it for each family"},
		{"kubeproxy_sync_proxy_rules_service_changes_pending", "gauge", nil, "all", true, ""},
		{"kubeproxy_sync_proxy_rules_service_changes_total", "counter", nil, "all", true, "a change counts once, where kube-proxy counts it for each family"},
		{"kubeproxy_sync_proxy_rules_no_local_endpoints_total", "gauge", []string{"traffic_policy", "ip_family"}, "all", true, "ports of Services in every mode, where kube-proxy's ipvs mode counts Services"},
		{"kubeproxy_sync_proxy_rules_iptables_total", "gauge", []string{"table", "ip_family"}, "iptables", true, "in iptables mode"},
		{"kubeproxy_sync_proxy_rules_iptables_last", "gauge", []string{"table", "ip_family"}, "iptables", true, "in iptables mode"},
		{"kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "counter", family, "iptables, ipvs", true, "in the modes iptables and ipvs"},
		{"kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total", "counter", family, "iptables", true, "in iptables mode"},
		{"kubeproxy_conntrack_reconciler_sync_duration_seconds", "histogram", family, "all", true, finer},
		{"kubeproxy_conntrack_reconciler_deleted_entries_total", "counter", family, "all", true, ""},
		{"kubeproxy_proxy_healthz_total", "counter", []string{"code"}, "all", true, ""},
		{"kubeproxy_proxy_livez_total", "counter", []string{"code"}, "all", true, ""},
		{"kubeproxy_iptables_ct_state_invalid_dropped_packets_total", "counter", nil, "iptables, with the kernel module nfnetlink_acct", false, "fairlead uses no accounting objects; `iptables -nvxL` has the packets of the rule"},
		{"kubeproxy_iptables_localhost_nodeports_accepted_packets_total", "counter", nil, "iptables, with the kernel module nfnetlink_acct", false, "as above"},
		{"kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "counter", family, "nftables", false, "fairlead has no nftables mode; `fairlead_sync_total{result=\"error\"}` counts in every mode"},
		{"kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total", "counter", family, "nftables", false, "fairlead has no nftables mode"},
	}
}
