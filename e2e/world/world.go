//go:build linux

package world

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// Config says what to build. The zero value is the usual world.
type Config struct {
	// Prefix starts the names of the namespaces. Empty means "flworld".
	Prefix string
	// Bridge is the name of a bridge of n1 its pods are behind. Empty means that
	// each has an interface of its own, whose name starts with "veth".
	Bridge string
}

// Needs is the world a case has to be played in: most share the usual one.
func Needs(c *servicetest.Case) Config {
	if kind, name, _ := strings.Cut(c.Config.Detector, ":"); kind == "bridge" {
		return Config{Bridge: name}
	}
	return Config{}
}

// World is the world of the corpus. Its methods may be called concurrently.
type World struct {
	*netns.Cluster
	N1        *netns.Node // the node under test
	Elsewhere *netns.Node // where virtual addresses are that nobody caught

	cfg     Config
	sctp    bool // the kernel has sockets for it
	srcPort atomic.Uint32
	ping    sync.Mutex // one at a time, to tell who answers

	mu      sync.Mutex
	pods    map[[2]int]*netns.Pod
	servers map[serverKey]*netns.Server
	extra   []netip.Addr // of n1, beside its own
	markers int

	awaited   *Marker // the last one that came into force
	awaitedOf *Proxy  // by way of whom
}

type serverKey struct {
	ns    *netns.NS
	proto netns.Proto
	addr  netip.AddrPort
}

// New builds a world without pods, except for the one behind the marker: a node
// has its gateway address only with its first pod.
func New(cfg Config) (*World, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = "flworld"
	}
	c, err := netns.New(netns.Config{Nodes: 4, Prefix: cfg.Prefix})
	if err != nil {
		return nil, fmt.Errorf("build world: %w", err)
	}
	w := &World{
		Cluster: c, N1: c.Nodes[0], Elsewhere: c.Nodes[3],
		cfg: cfg, sctp: netns.HasSCTP(),
		pods:    make(map[[2]int]*netns.Pod),
		servers: make(map[serverKey]*netns.Server),
	}
	err = w.routeAllOverN1()
	if err == nil && cfg.Bridge != "" {
		err = w.addBridge()
	}
	if err == nil {
		_, err = w.Place(markerPod().V4)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build world: %w", err), c.Close())
	}
	return w, nil
}

// Close ends everything in the world and removes it.
func (w *World) Close() error {
	err := w.Cluster.Close()
	if rm := os.Remove(w.LockFile()); !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// Localize gives n1 exactly these addresses beside its own, with routes to them
// for everybody.
func (w *World) Localize(addrs []netip.Addr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, a := range w.extra {
		if !slices.Contains(addrs, a) {
			errs = append(errs, w.N1.RemoveAddr(netns.Uplink, alone(a)))
		}
	}
	for _, a := range addrs {
		if !slices.Contains(w.extra, a) {
			errs = append(errs, w.N1.AddAddr(netns.Uplink, alone(a)), w.RouteTo(w.N1, alone(a)))
		}
	}
	w.extra = slices.Clone(addrs)
	return errors.Join(errs...)
}

// Place returns the namespace that has an address, or where packets to it end up
// if nobody touches them. It makes pods, and virtual addresses, that are not there
// yet.
func (w *World) Place(a netip.Addr) (*netns.NS, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.place(a)
}

// errNowhere says that an address has no place.
var errNowhere = errors.New("nowhere in the world")

func (w *World) place(a netip.Addr) (*netns.NS, error) {
	if a.IsLoopback() || slices.Contains(w.extra, a) {
		return w.N1.NS, nil
	}
	for _, n := range w.Nodes {
		if a == n.Primary.Like(a) || a == n.Gateway.Like(a) {
			return n.NS, nil
		}
		if m, ok := podNumber(n, a); ok {
			return w.pod(n, m)
		}
	}
	switch {
	case onLink(netns.ClientAddr(1).Like(a)).Contains(a):
		return w.Client, w.Client.AddAddr(netns.Uplink, alone(a))
	case netns.ServiceCIDR().V4.Contains(a), netns.ServiceCIDR().V6.Contains(a),
		netns.VIPRange().V4.Contains(a), netns.VIPRange().V6.Contains(a):
		return w.Elsewhere.NS, w.Elsewhere.AddAddr(netns.Uplink, alone(a))
	}
	return nil, fmt.Errorf("%s is %w", a, errNowhere)
}

// podNumber is M of a pod address of n: the one that gives it.
func podNumber(n *netns.Node, a netip.Addr) (int, bool) {
	if !n.PodCIDR.V4.Contains(a) && !n.PodCIDR.V6.Contains(a) {
		return 0, false
	}
	for m := 2; m < 255; m++ {
		if netns.PodAddr(n.Number, m).Like(a) == a {
			return m, true
		}
	}
	return 0, false
}

func (w *World) pod(n *netns.Node, m int) (*netns.NS, error) {
	key := [2]int{n.Number, m}
	if p := w.pods[key]; p != nil {
		return p.NS, nil
	}
	p, err := w.AddPod(n, netns.PodAddr(n.Number, m).Slice()...)
	if err != nil {
		return nil, err
	}
	if n == w.N1 && w.cfg.Bridge != "" {
		if err := w.enslave(p); err != nil {
			return nil, errors.Join(err, w.RemovePod(p))
		}
	}
	w.pods[key] = p
	return p.NS, nil
}

// Serve makes sure that a server listens at an address, wherever that is. It
// stays until [World.Silence] or Close.
func (w *World) Serve(proto netns.Proto, addr netip.AddrPort) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	ns, err := w.place(addr.Addr())
	if err != nil {
		return err
	}
	key := serverKey{ns, proto, addr}
	if w.servers[key] != nil {
		return nil
	}
	s, err := serve(ns, proto, addr)
	if err == nil {
		w.servers[key] = s
	}
	return err
}

// serve tries for a while: a program being started at this moment, by anybody in
// this process, holds a copy of a socket that was just closed until its exec.
func serve(ns *netns.NS, proto netns.Proto, addr netip.AddrPort) (s *netns.Server, err error) {
	for range 20 {
		s, err = ns.Serve(proto, addr)
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return s, err
}

// Silence ends all servers of n1, whose ports the next case may want for
// something else.
func (w *World) Silence() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for key, s := range w.servers {
		if key.ns == w.N1.NS {
			errs = append(errs, s.Close())
			delete(w.servers, key)
		}
	}
	return errors.Join(errs...)
}

// Source ports for UDP, which must not come again while connection tracking
// remembers the flow. They stay clear of node ports.
const (
	firstSrcPort = 10000
	srcPorts     = 19000
)

func (w *World) nextSrcPort() uint16 {
	return uint16(firstSrcPort + w.srcPort.Add(1)%srcPorts)
}

func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func onLink(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(a, 24).Masked()
	}
	return netip.PrefixFrom(a, 64).Masked()
}
