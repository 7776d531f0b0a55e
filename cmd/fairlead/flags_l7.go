package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/l7"
	"github.com/fairlead-project/fairlead/l7/ingress"
	l7watch "github.com/fairlead-project/fairlead/l7/kube/watch"
	"github.com/fairlead-project/fairlead/service"
)

// l7Flags are the flags of fairlead l7. Those that ingress-nginx has under the same name mean
// the same.
type l7Flags struct {
	flags // of which it has those of the source, the name of the node, and the log

	HTTP, HTTPS, Status string
	StatusAllow         []string
	Handover            string

	DefaultBackend, DefaultCertificate, ConfigMap, SharedKey string

	IngressClass     string
	ClassByName      bool
	AdoptNginx       bool
	WithoutClass     bool
	NoCatchAll       bool
	OwnedHosts       bool
	ExternalNames    bool
	Passthrough      bool
	WatchNamespace   string
	PublishService   string
	PublishAddresses string
	UpdateStatus     bool
	ClearStatus      bool
	InternalAddress  bool
	Lease            string
	ShutdownDelay    time.Duration
	AccessLog        bool
	MaxConns         int64
	MaxPerClient     int64
	Engine           string
}

// The values of --http-engine.
const (
	engineOwn = "fairlead"
	engineStd = "std"
)

func (f *l7Flags) add(fs *pflag.FlagSet) {
	f.addSource(fs)
	f.QPS, f.Burst = 100, 200 // at start each certificate is a request
	fs.Lookup("kube-api-qps").DefValue, fs.Lookup("kube-api-burst").DefValue = "100", "200"
	fs.StringVar(&f.Manifests, "manifests", "", "folder of manifests to follow in place of an API server")
	fs.StringVar(&f.HostnameOverride, "hostname-override", "", "name of this node, for topology and Events; empty means $NODE_NAME or the host name")
	fs.StringVar(&f.HTTP, "http-bind-address", ":80", "where HTTP is served; empty switches it off")
	fs.StringVar(&f.HTTPS, "https-bind-address", ":443", "where HTTPS is served; empty switches it off")
	fs.StringVar(&f.HealthzBindAddress, "healthz-bind-address", ":10261", "address of /healthz and /readyz; empty disables it")
	fs.StringVar(&f.MetricsBindAddress, "metrics-bind-address", "127.0.0.1:10262", "address of /metrics; empty disables it")
	fs.StringVar(&f.Status, "status-bind-address", "127.0.0.1:10263", "address of the status page; empty disables it")
	fs.StringSliceVar(&f.StatusAllow, "status-allow", nil, "CIDRs of clients that may see the status page; empty means this machine only")
	fs.BoolVar(&f.Profiling, "profiling", false, "serve /debug/pprof at the metrics address")
	fs.StringVar(&f.Handover, "handover-socket", "", "unix socket at which a new process takes over the listeners from the old one, without a lost connection; empty means that they are opened anew")
	f.addL7Objects(fs)
	f.addL7Classes(fs)
	f.addL7Status(fs)
	fs.DurationVar(&f.ShutdownDelay, "shutdown-grace-period", 5*time.Second, "time to serve on after /readyz has begun to fail, so that nobody is sent here any more")
	fs.BoolVar(&f.AccessLog, "access-log", true, "write a line for each request to standard output; the ConfigMap says what is in it")
	fs.Int64Var(&f.MaxConns, "max-connections", 0, "clients' connections at a time; 0 means 65536")
	fs.Int64Var(&f.MaxPerClient, "max-connections-per-client", 0, "of them for one client's address (for IPv6 a /64), other than those of trusted proxies; 0 means a quarter of --max-connections")
	fs.StringVar(&f.Engine, "http-engine", engineOwn, "who speaks HTTP/1.1 to clients: fairlead itself, or Go's net/http (std) behind the same strict parser, which needs more CPU")
	f.addLog(fs)
	fs.BoolVar(&f.Version, "version", false, "print the version and exit")
}

func (f *l7Flags) addL7Objects(fs *pflag.FlagSet) {
	fs.StringVar(&f.DefaultBackend, "default-backend-service", "", "namespace/name of the Service for requests that no Ingress is about, by its first port; empty means 404")
	fs.StringVar(&f.DefaultCertificate, "default-ssl-certificate", "", "namespace/name of the Secret with the certificate for hosts without one; empty means one made at start")
	fs.StringVar(&f.ConfigMap, "configmap", "", "namespace/name of the ConfigMap with the defaults of annotations")
	fs.StringVar(&f.SharedKey, "shared-key-secret", "", "namespace/name of a Secret whose \"key\", 32 bytes or more, makes TLS sessions and sticky cookies good on every node")
	fs.StringVar(&f.WatchNamespace, "watch-namespace", "", "namespace whose Ingresses are served; empty means all")
}

func (f *l7Flags) addL7Classes(fs *pflag.FlagSet) {
	fs.StringVar(&f.IngressClass, "ingress-class", "fairlead", "value of the annotation kubernetes.io/ingress.class that means us, and with --ingress-class-by-name the name of an IngressClass")
	fs.BoolVar(&f.ClassByName, "ingress-class-by-name", false, "serve the IngressClass named by --ingress-class whoever its controller is")
	fs.BoolVar(&f.AdoptNginx, "adopt-ingress-nginx", false, "serve IngressClasses of the controller k8s.io/ingress-nginx as well, the way that ingress-nginx did")
	fs.BoolVar(&f.WithoutClass, "watch-ingress-without-class", false, "serve Ingresses that name no class as well")
	fs.BoolVar(&f.NoCatchAll, "disable-catch-all", false, "refuse rules without a host, and default backends without rules")
	fs.BoolVar(&f.OwnedHosts, "owned-hosts", false, "a host belongs to the namespace whose Ingress was the first to name it")
	fs.BoolVar(&f.ExternalNames, "enable-external-names", false, "let Services of type ExternalName be backends (always so for adopted classes)")
	fs.BoolVar(&f.Passthrough, "enable-ssl-passthrough", false, "let the annotation ssl-passthrough send TLS connections to backends undecrypted")
}

func (f *l7Flags) addL7Status(fs *pflag.FlagSet) {
	fs.StringVar(&f.PublishService, "publish-service", "", "namespace/name of the Service whose addresses are written into the status of Ingresses; without it and --publish-status-address those of the nodes whose pods are ready")
	fs.StringVar(&f.PublishAddresses, "publish-status-address", "", "addresses to be written into the status of Ingresses, with commas, in place of those of a Service")
	fs.BoolVar(&f.UpdateStatus, "update-status", true, "take part in electing who writes the status of Ingresses, and Events")
	fs.BoolVar(&f.ClearStatus, "update-status-on-shutdown", true, "take the addresses out of the status of Ingresses when the last pod is told to stop")
	fs.BoolVar(&f.InternalAddress, "report-node-internal-ip-address", false, "where the status of Ingresses has the addresses of nodes, their internal ones, even if they have external ones")
	fs.StringVar(&f.Lease, "election-id", "", "namespace/name of the Lease for that; empty means fairlead-l7 in $POD_NAMESPACE or kube-system")
}

// An l7Config is an l7Flags, understood.
type l7Config struct {
	server    l7.Config
	allow     []netip.Prefix
	publish   service.Name
	addresses []l7watch.Address
	lease     service.Name
}

// configL7 returns what f asks for. The error joins everything that is wrong.
func (f *l7Flags) configL7(env func(string) string) (l7Config, error) {
	var errs []error
	c := l7Config{}
	for _, n := range []struct {
		flag, value string
		to          *service.Name
	}{
		{"--default-backend-service", f.DefaultBackend, &c.server.DefaultBackend},
		{"--default-ssl-certificate", f.DefaultCertificate, &c.server.DefaultCertificate},
		{"--configmap", f.ConfigMap, &c.server.Globals},
		{"--shared-key-secret", f.SharedKey, &c.server.Keys},
		{"--publish-service", f.PublishService, &c.publish},
		{"--election-id", leaseName(f.Lease, env), &c.lease},
	} {
		var err error
		if *n.to, err = parseName(n.value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n.flag, err))
		}
	}
	for _, a := range []struct{ flag, value string }{
		{"--http-bind-address", f.HTTP}, {"--https-bind-address", f.HTTPS}, {"--status-bind-address", f.Status},
		{"--healthz-bind-address", f.HealthzBindAddress}, {"--metrics-bind-address", f.MetricsBindAddress},
	} {
		if _, _, err := net.SplitHostPort(a.value); a.value != "" && err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.flag, err))
		}
	}
	var err error
	if c.addresses, err = l7watch.ParseAddresses(f.PublishAddresses); err != nil {
		errs = append(errs, fmt.Errorf("--publish-status-address: %w", err))
	}
	for _, text := range f.StatusAllow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--status-allow: %w", err))
		}
		c.allow = append(c.allow, p.Masked())
	}
	errs = append(errs, f.contradictions()...)
	c.server.Ingress = f.ingress()
	c.server.Passthrough, c.server.MaxConns, c.server.Version = f.Passthrough, f.MaxConns, buildVersion()
	c.server.MaxPerClient, c.server.NetHTTP = f.MaxPerClient, f.Engine == engineStd
	return c, errors.Join(errs...)
}

// contradictions are flags that cannot be obeyed together.
func (f *l7Flags) contradictions() []error {
	var errs []error
	if f.PublishService != "" && f.PublishAddresses != "" {
		errs = append(errs, errors.New("--publish-service and --publish-status-address: only one can say where Ingresses are served"))
	}
	if f.HTTP == "" && f.HTTPS == "" {
		errs = append(errs, errors.New("--http-bind-address and --https-bind-address are both empty: nothing would be served"))
	}
	if f.ClassByName && f.IngressClass == "" {
		errs = append(errs, errors.New("--ingress-class-by-name: --ingress-class is empty"))
	}
	if f.ShutdownDelay < 0 {
		errs = append(errs, errors.New("--shutdown-grace-period must not be negative"))
	}
	if f.Engine != engineOwn && f.Engine != engineStd {
		errs = append(errs, fmt.Errorf("--http-engine: %q is neither %s nor %s", f.Engine, engineOwn, engineStd))
	}
	if f.MaxConns < 0 {
		errs = append(errs, errors.New("--max-connections must not be negative"))
	}
	if f.MaxPerClient < 0 {
		errs = append(errs, errors.New("--max-connections-per-client must not be negative"))
	}
	return errs
}

func (f *l7Flags) ingress() ingress.Config {
	c := ingress.Config{
		Classes: ingress.DefaultClasses(f.AdoptNginx), WithoutClass: f.WithoutClass, NoCatchAll: f.NoCatchAll,
		OwnedHosts: f.OwnedHosts, ExternalNames: f.ExternalNames,
	}
	c.Classes[0].Annotation = f.IngressClass
	if f.ClassByName {
		c.Classes[0].ByName = f.IngressClass
	}
	return c
}

func leaseName(flag string, env func(string) string) string {
	if flag != "" {
		return flag
	}
	ns := env("POD_NAMESPACE")
	if ns == "" {
		ns = "kube-system"
	}
	return ns + "/fairlead-l7"
}

// parseName parses namespace/name; nothing means the zero Name.
func parseName(s string) (service.Name, error) {
	if s == "" {
		return service.Name{}, nil
	}
	ns, name, ok := strings.Cut(s, "/")
	if !ok || ns == "" || name == "" || strings.Contains(name, "/") {
		return service.Name{}, fmt.Errorf("%q is not namespace/name", s)
	}
	return service.Name{Namespace: ns, Name: name}, nil
}
