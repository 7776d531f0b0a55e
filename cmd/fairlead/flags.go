package main

import (
	"time"

	"github.com/spf13/pflag"
)

// flags holds the command line as it was given. Names and defaults are those of
// kube-proxy 1.36, except where the help says so.
type flags struct {
	// Where Services come from.
	Kubeconfig       string
	Master           string
	Manifests        string
	QPS              float32
	Burst            int
	ConfigSyncPeriod time.Duration
	API              decoderFlags

	// This node.
	HostnameOverride   string
	BindAddress        string
	ClusterCIDR        string
	DetectLocalMode    string
	PodBridge          string
	PodInterfacePrefix string
	NodePortAddresses  []string
	LocalhostNodePorts bool
	LocalhostProxy     bool
	MasqueradeAll      bool

	// The dataplane.
	ProxyMode     string
	Variant       string
	Writer        string
	MasqueradeBit int
	SyncPeriod    time.Duration
	MinSyncPeriod time.Duration
	IPVS          ipvsFlags
	Userspace     userspaceFlags

	// Servers.
	HealthzBindAddress  string
	MetricsBindAddress  string
	BindAddressHardFail bool
	Profiling           bool

	// Connection tracking.
	ConntrackMaxPerCore     int
	ConntrackMin            int
	ConntrackTCPEstablished time.Duration
	ConntrackTCPCloseWait   time.Duration
	ConntrackTCPBeLiberal   bool
	ConntrackUDP            time.Duration
	ConntrackUDPStream      time.Duration

	L7     l7ChildFlags
	Status statusFlags

	Lifecycle lifecycleFlags
	Takeover  takeoverFlags

	Verbosity int
	Version   bool // fairlead without a subcommand has Files.Version

	Files  fileFlags
	Compat compatFlags
	Log    logFlags

	// origin says where the value of a flag is from: --flag, or a file and a field. Those with their default are not in it.
	origin map[string]string
}

// addRun adds every flag of fairlead without a subcommand.
func (f *flags) addRun(fs *pflag.FlagSet) {
	f.Files.add(fs)
	f.addSource(fs)
	fs.StringVar(&f.Manifests, "manifests", "", "folder of manifests to follow in place of an API server")
	f.API.add(fs)
	f.addNode(fs)
	f.addMode(fs)
	f.addIptables(fs)
	f.addIPVS(fs)
	f.addUserspace(fs)
	f.addServers(fs)
	f.Status.addListen(fs)
	f.Lifecycle.add(fs)
	f.Takeover.add(fs)
	f.addConntrack(fs)
	f.L7.add(fs)
	f.Compat.add(fs)
	f.Log.add(fs)
	f.addLog(fs)
	f.Files.addVersion(fs)
}

func (f *flags) addSource(fs *pflag.FlagSet) {
	fs.StringVar(&f.Kubeconfig, "kubeconfig", "", "kubeconfig file; empty means the service account of this pod")
	fs.StringVar(&f.Master, "master", "", "address of the API server, in place of the one in the kubeconfig file")
	fs.Float32Var(&f.QPS, "kube-api-qps", 5, "requests per second to the API server")
	fs.IntVar(&f.Burst, "kube-api-burst", 10, "burst of requests to the API server")
	fs.DurationVar(&f.ConfigSyncPeriod, "config-sync-period", 15*time.Minute, "accepted for kube-proxy's sake; nothing needs it here")
}

func (f *flags) addNode(fs *pflag.FlagSet) {
	fs.StringVar(&f.HostnameOverride, "hostname-override", "", "name of this node; empty means the host name")
	fs.StringVar(&f.BindAddress, "bind-address", "0.0.0.0", "primary address of this node, unless unspecified; nothing binds to it")
	fs.StringVar(&f.ClusterCIDR, "cluster-cidr", "", "CIDR of pods, or one per family with a comma, for --detect-local-mode=ClusterCIDR")
	fs.StringVar(&f.DetectLocalMode, "detect-local-mode", detectClusterCIDR, "how to tell traffic of pods on this node: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	fs.StringVar(&f.PodBridge, "pod-bridge-interface", "", "bridge of the pods, for --detect-local-mode=BridgeInterface")
	fs.StringVar(&f.PodInterfacePrefix, "pod-interface-name-prefix", "", "how names of interfaces to pods begin, for --detect-local-mode=InterfaceNamePrefix")
	fs.StringSliceVar(&f.NodePortAddresses, "nodeport-addresses", nil, `CIDRs of local addresses at which node ports answer, or "primary"; empty means all`)
	fs.BoolVar(&f.LocalhostNodePorts, "iptables-localhost-nodeports", true, "answer node ports at 127.0.0.1, in iptables mode only: IPVS cannot")
	fs.BoolVar(&f.LocalhostProxy, "localhost-nodeports-proxy", false, "answer node ports at 127.0.0.1 and ::1 with a proxy, in iptables and ipvs mode; --iptables-localhost-nodeports is not looked at then (not in kube-proxy)")
	fs.BoolVar(&f.MasqueradeAll, "masquerade-all", false, "masquerade everything sent to cluster IPs")
}

func (f *flags) addMode(fs *pflag.FlagSet) {
	fs.StringVar(&f.ProxyMode, "proxy-mode", "", "dataplane: iptables, ipvs or userspace, or several with commas, of which the first is taken that this node can run; empty means iptables")
}

func (f *flags) addIptables(fs *pflag.FlagSet) {
	fs.StringVar(&f.Variant, "iptables-variant", variantAuto, "iptables tools to use: auto, nft or legacy (not in kube-proxy)")
	fs.StringVar(&f.Writer, "iptables-writer", writerAuto, "what writes the rules: tool, netlink (nft variant), or auto: netlink if it is found to write the same (not in kube-proxy)")
	f.addMasqueradeBit(fs)
	fs.DurationVar(&f.SyncPeriod, "iptables-sync-period", 30*time.Second, "time between looks at what others do to our rules, and the longest pause after an error")
	fs.DurationVar(&f.MinSyncPeriod, "iptables-min-sync-period", time.Second, "about the longest a change waits under churn, beside eight syncs")
}

func (f *flags) addMasqueradeBit(fs *pflag.FlagSet) {
	fs.IntVar(&f.MasqueradeBit, "iptables-masquerade-bit", 14, "bit of the packet mark that asks for masquerading, 0 to 31, where the kernel translates")
}

func (f *flags) addServers(fs *pflag.FlagSet) {
	fs.StringVar(&f.HealthzBindAddress, "healthz-bind-address", defaultHealthz, "address of /healthz and /livez ([::]:10256 by default if --bind-address is IPv6); empty disables it")
	fs.StringVar(&f.MetricsBindAddress, "metrics-bind-address", defaultMetrics, "address of /metrics and /proxyMode ([::1]:10249 by default if --bind-address is IPv6); empty disables it")
	fs.BoolVar(&f.BindAddressHardFail, "bind-address-hard-fail", false, "exit if one of the two addresses cannot be listened on")
	fs.BoolVar(&f.Profiling, "profiling", false, "serve /debug/pprof at the metrics address")
}

func (f *flags) addConntrack(fs *pflag.FlagSet) {
	fs.IntVar(&f.ConntrackMaxPerCore, "conntrack-max-per-core", 32768, "tracked connections per CPU; 0 leaves the limit alone")
	fs.IntVar(&f.ConntrackMin, "conntrack-min", 131072, "tracked connections, whatever the number of CPUs")
	fs.DurationVar(&f.ConntrackTCPEstablished, "conntrack-tcp-timeout-established", 24*time.Hour, "timeout of idle TCP connections; 0 leaves it alone")
	fs.DurationVar(&f.ConntrackTCPCloseWait, "conntrack-tcp-timeout-close-wait", time.Hour, "timeout of TCP connections in CLOSE_WAIT; 0 leaves it alone")
	fs.BoolVar(&f.ConntrackTCPBeLiberal, "conntrack-tcp-be-liberal", false, "track TCP segments out of window")
	fs.DurationVar(&f.ConntrackUDP, "conntrack-udp-timeout", 0, "timeout of UDP flows without an answer; 0 leaves it alone")
	fs.DurationVar(&f.ConntrackUDPStream, "conntrack-udp-timeout-stream", 0, "timeout of UDP flows with answers; 0 leaves it alone")
}

func (f *flags) addLog(fs *pflag.FlagSet) {
	fs.IntVarP(&f.Verbosity, "v", "v", 0, "log level; 4 and above log every sync")
}
