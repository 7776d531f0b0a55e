package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// APIVersion and Kind are what a document of this package says it is.
const (
	APIVersion = "fairlead.io/v1alpha1"
	Kind       = "FairleadConfiguration"
)

// FairleadConfiguration is what is fairlead's own. The zero value, apart from the kind, changes nothing.
type FairleadConfiguration struct {
	metav1.TypeMeta `json:",inline"`

	// Modes are dataplanes, in the order in which they are tried: iptables, ipvs, userspace. The first that this node
	// can run is taken. With one word there is nothing to fall back to. It wins over mode in KubeProxyConfiguration,
	// which may stay what kube-proxy understands.
	Modes []string `json:"modes,omitempty"`

	// Manifests is a folder of Services and EndpointSlices to follow in place of an API server. What
	// KubeProxyConfiguration says of the way to one is not looked at then.
	Manifests *string `json:"manifests,omitempty"`

	// APIDecoder is how objects from the API server are decoded: compact reads what counts, typed all of them.
	APIDecoder *string `json:"apiDecoder,omitempty"`

	// LocalhostNodePortsProxy answers node ports at 127.0.0.1 and ::1 with a proxy, in the modes iptables and ipvs.
	LocalhostNodePortsProxy *bool `json:"localhostNodePortsProxy,omitempty"`

	// Takeover removes what another proxy has left on the node, once it is served by this one.
	Takeover *bool `json:"takeover,omitempty"`

	// StatusSocket is where fairlead status and fairlead trace ask. Empty disables it.
	StatusSocket *string `json:"statusSocket,omitempty"`

	// ShutdownGrace is how long to go on after a signal to end while /healthz says so to load balancers.
	ShutdownGrace *metav1.Duration `json:"shutdownGrace,omitempty"`

	// IPTables is for the tools of iptables, which every mode uses.
	IPTables IPTablesConfiguration `json:"iptables,omitzero"`

	// IPVS is for the mode ipvs.
	IPVS IPVSConfiguration `json:"ipvs,omitzero"`

	// Userspace is for the mode userspace, and for localhostNodePortsProxy.
	Userspace UserspaceConfiguration `json:"userspace,omitzero"`

	// L7 runs fairlead l7 beside this process.
	L7 L7Configuration `json:"l7,omitzero"`
}

// IPTablesConfiguration is about iptables.
type IPTablesConfiguration struct {
	// Variant is nft, legacy, or auto, which finds out what the node uses.
	Variant *string `json:"variant,omitempty"`

	// Writer is tool, netlink, or auto, which takes netlink if it is found to write the same as the tools.
	Writer *string `json:"writer,omitempty"`
}

// IPVSConfiguration is about the mode ipvs.
type IPVSConfiguration struct {
	// VIPMode is how packets get to virtual servers: routed takes single ports, device takes whole addresses, as
	// kube-proxy does.
	VIPMode *string `json:"vipMode,omitempty"`
	// DrainTimeout is how long an endpoint that has left a Service, but still runs, keeps its connections. 0s means as
	// long as they last.
	DrainTimeout *metav1.Duration `json:"drainTimeout,omitempty"`
}

// UserspaceConfiguration is about the proxy of fairlead itself.
type UserspaceConfiguration struct {
	// Scheduler is for Services that ask for none.
	Scheduler *string `json:"scheduler,omitempty"`
	// Port is the first of three on the loopback addresses where the proxy listens.
	Port *int32 `json:"port,omitempty"`
	// ConnectTimeout is how long an endpoint may take to accept a connection before the next one is tried.
	ConnectTimeout *metav1.Duration `json:"connectTimeout,omitempty"`
	// UDPTimeout is how long a UDP session lasts without a datagram.
	UDPTimeout *metav1.Duration `json:"udpTimeout,omitempty"`
	// MaxUDPSessions is how many of those there may be.
	MaxUDPSessions *int32 `json:"maxUDPSessions,omitempty"`
	// EjectOutliers leaves out for a while endpoints that fail to connect again and again.
	EjectOutliers *bool `json:"ejectOutliers,omitempty"`
}

// L7Configuration is about fairlead l7 as a child of this process.
type L7Configuration struct {
	// Enabled runs it.
	Enabled *bool `json:"enabled,omitempty"`
	// Args are its arguments.
	Args []string `json:"args,omitempty"`
	// User is the numeric user and group it runs as, such as 65532:65532.
	User *string `json:"user,omitempty"`
}
