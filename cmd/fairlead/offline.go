package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
	"github.com/fairlead-project/fairlead/service/kube/watch"
	"github.com/fairlead-project/fairlead/userspace"
)

// worldFlags are the flags of subcommands that look at objects without putting
// them in force.
type worldFlags struct {
	flags
	Files     []string
	Dataplane string
	Family    string
	NodeAddrs []string
	Zone      string
}

func (w *worldFlags) addPlan(fs *pflag.FlagSet) {
	w.add(fs)
	fs.StringVar(&w.Family, "family", "both", "address family: ipv4, ipv6 or both")
}

func (w *worldFlags) add(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&w.Files, "file", "f", nil, "file or folder of manifests; may be given more than once")
	fs.StringVar(&w.Dataplane, "dataplane", "iptables", "dataplane to plan for: iptables, ipvs or userspace")
	fs.StringSliceVar(&w.NodeAddrs, "node-addresses", nil, "addresses of the node; the first of each family is its primary one")
	fs.StringVar(&w.Zone, "node-zone", "", "zone of the node, for topology hints")
	w.addNode(fs)
	w.addMasqueradeBit(fs)
	w.addIPVSPlan(fs)
	w.addUserspacePlan(fs)
}

// setUnused gives the flags that a subcommand does not have values that pass
// Validate.
func (w *worldFlags) setUnused() {
	w.Userspace.ConnectTimeout, w.Userspace.UDPTimeout, w.Userspace.MaxSessions = time.Second, time.Second, 1
	w.SyncPeriod, w.IPVS.SyncPeriod, w.ConfigSyncPeriod, w.Variant, w.Writer = time.Second, time.Second, time.Second, variantAuto, writerAuto
}

// A request is a worldFlags, understood.
type request struct {
	node      nodeConfig
	addrs     []netip.Addr // of the node, in the order given
	zone      string       // of the node
	families  []service.Family
	dataplane string     // key of the dataplanes
	ipvs      ipvsConfig // zero for other dataplanes
	userspace userspace.Config
	localhost bool // node ports at localhost are a proxy's
}

// request returns what w asks for. The error joins everything that is wrong.
func (w *worldFlags) request() (request, error) {
	w.setUnused()
	var errs []error
	mode, err := parseMode(w.Dataplane)
	if err != nil {
		errs = append(errs, fmt.Errorf("--dataplane: %w", err))
	}
	w.ProxyMode = mode
	cfg, err := w.config()
	errs = append(errs, err)
	r := request{node: cfg.Node, zone: w.Zone, dataplane: mode, ipvs: cfg.IPVS, userspace: cfg.Userspace.Config, localhost: cfg.LocalhostProxy}
	switch strings.ToLower(w.Family) {
	case "both", "": // a trace goes by its packet
		r.families = []service.Family{service.IPv4, service.IPv6}
	case "ipv4":
		r.families = []service.Family{service.IPv4}
	case "ipv6":
		r.families = []service.Family{service.IPv6}
	default:
		errs = append(errs, fmt.Errorf("--family: %q is not ipv4, ipv6 or both", w.Family))
	}
	for _, s := range w.NodeAddrs {
		a, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil || a.Zone() != "" {
			errs = append(errs, fmt.Errorf("--node-addresses: %q is not an IP address", s))
			continue
		}
		r.addrs = append(r.addrs, a.Unmap())
	}
	return r, errors.Join(errs...)
}

// snapshot decides what holds for the node r describes. Info is what a Node
// object says of it, if there is one; the command line comes before it.
func (r request) snapshot(st *service.Store, info kube.NodeInfo) *service.Snapshot {
	if len(r.addrs) > 0 {
		info.Addrs = r.addrs
	}
	info.Zone = cmp.Or(r.zone, info.Zone)
	local := slices.SortedFunc(slices.Values(info.Addrs), netip.Addr.Compare)
	s := nodeState{Config: r.node, Name: r.node.Name, Info: info, Addrs: localAddrs{All: slices.Compact(local)}}
	st.SetNode(s.build())
	return st.Snapshot()
}

// xtFamily returns what the rules call f.
func xtFamily(f service.Family) xt.Family { return xt.Family(f) }

// A collector is a kube.Sink that fills a Store once.
type collector struct {
	mu     sync.Mutex
	store  *service.Store
	synced chan struct{}
	once   sync.Once
}

func newCollector() *collector {
	return &collector{store: service.NewStore(), synced: make(chan struct{})}
}

// Update implements kube.Sink.
func (c *collector) Update(_ context.Context, change func(*service.Store) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c.store)
	return nil
}

// Synced implements kube.Sink.
func (c *collector) Synced() { c.once.Do(func() { close(c.synced) }) }

// listTimeout is how long a subcommand waits for the lists of an API server.
const listTimeout = 30 * time.Second

// list reads Services, slices and the node called name from the API server of f.
func (c command) list(ctx context.Context, f *flags, name string) (*service.Store, kube.NodeInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rc, err := watch.Config(f.Kubeconfig, f.Master, f.QPS, f.Burst)
	if err != nil {
		return nil, kube.NodeInfo{}, err
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, kube.NodeInfo{}, fmt.Errorf("connect to the API server: %w", err)
	}
	sink := newCollector()
	var info kube.NodeInfo
	src := &watch.Source{
		Client: client, Sink: sink, Log: c.logger(f.Verbosity), NodeName: name,
		Node: func(_ context.Context, n *kube.NodeInfo) {
			if n != nil {
				info = *n
			}
		},
		Report: func(_ service.Object, problems []service.Problem) { c.complain(problems) },
	}
	var wg sync.WaitGroup
	wg.Go(func() { src.Run(ctx) })
	select {
	case <-sink.synced:
	case <-ctx.Done():
		err = fmt.Errorf("list Services, EndpointSlices and the Node %s: %w", name, ctx.Err())
	}
	cancel()
	wg.Wait()
	return sink.store, info, err
}

// complain prints problems on the error output.
func (c command) complain(problems []service.Problem) {
	for _, p := range problems {
		fmt.Fprintln(c.err, p.String())
	}
}

// hostname returns the name of this machine, empty if it cannot be told.
func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimSpace(h))
}
