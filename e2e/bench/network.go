//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const apiPort = 6443

// network is what the package comment draws, for one proxy.
type network struct {
	cluster *netns.Cluster
	node    *netns.Node
	pod     *netns.Pod // the clients
	replay  *replay
	dir     string // for the kubeconfig and the lock of iptables
	accept  *acceptor
	loads   *load.Server // nil unless the spec asks for it
	real    *realAPI     // nil if the replay is the API server
}

// newNetwork builds it, with an API server of the given objects and without a
// proxy. On error nothing is left.
func newNetwork(s spec, log *slog.Logger) (*network, error) {
	const attempts = 5
	for i := 1; ; i++ {
		n, err := tryNetwork(s, log)
		// The kernel was asked for a list that changed meanwhile. On a slow machine
		// that happens.
		if err == nil || i == attempts || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return n, err
		}
	}
}

func tryNetwork(s spec, log *slog.Logger) (*network, error) {
	cluster, err := netns.New(netns.Config{Nodes: 1, Prefix: "fairlead-bench"})
	if err != nil {
		return nil, fmt.Errorf("build a network: %w", err)
	}
	n := &network{cluster: cluster, node: cluster.Nodes[0]}
	err = n.build(s, log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("build a network: %w", err), n.close())
	}
	return n, nil
}

func (n *network) build(s spec, log *slog.Logger) (err error) {
	if n.dir, err = os.MkdirTemp("", "fairlead-bench"); err != nil {
		return err
	}
	if n.pod, err = n.cluster.AddPod(n.node, netns.PodAddr(1, 2).V4); err != nil {
		return err
	}
	if err := errors.Join(n.route(), n.tune()); err != nil {
		return err
	}
	endpoints, err := n.cluster.Router.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), targetPort))
	if err != nil {
		return err
	}
	if n.accept, err = newAcceptor(endpoints); err != nil {
		return err
	}
	if s.Loads {
		if n.loads, err = serveLoads(n.cluster.Router); err != nil {
			return err
		}
	}
	if n.replay, err = newReplay(s, log); err != nil {
		return err
	}
	api, err := n.cluster.Router.Listen(n.apiAddr())
	if err != nil {
		return err
	}
	if err := n.replay.serve(api); err != nil {
		return err
	}
	return writeKubeconfig(n.kubeconfig(), n.apiAddr().String())
}

func (n *network) apiAddr() netip.AddrPort { return netip.AddrPortFrom(netns.RouterAddr().V4, apiPort) }
func (n *network) kubeconfig() string      { return filepath.Join(n.dir, "kubeconfig") }

// route makes the router the home of all endpoints, and a black hole for
// Services that no proxy has translated.
func (n *network) route() error {
	router := n.cluster.Router
	err := errors.Join(
		router.SetRoute(netns.Route{Dst: netns.ServiceCIDR().V4, Kind: netns.RouteBlackhole}),
		router.SetRoute(netns.Route{Dst: netip.PrefixFrom(deadAddr(0), 24).Masked(), Kind: netns.RouteBlackhole}),
	)
	// 10.244.0.0/16 without 10.244.0.0/24 and the node's own 10.244.1.0/24. An
	// address on the loopback interface makes its whole prefix local.
	for bits := 23; bits > 16; bits-- {
		first := netip.AddrFrom4([4]byte{10, 244, byte(1 << (24 - bits)), 1})
		err = errors.Join(err, router.AddAddr("lo", netip.PrefixFrom(first, bits)))
	}
	return err
}

// tune sets what thousands of probes need: ports enough, and a connection
// tracker that soon forgets attempts that were translated too early or not at
// all, lest a later attempt from the same port meet the same fate.
func (n *network) tune() error {
	err := n.pod.SetSysctl("net/ipv4/ip_local_port_range", "1024 65535")
	terr := n.node.SetSysctl("net/netfilter/nf_conntrack_tcp_timeout_syn_sent", "5")
	if errors.Is(terr, fs.ErrNotExist) {
		terr = nil // no connection tracking before the first rule that asks for it
	}
	return errors.Join(err, terr)
}

func (n *network) close() error {
	var errs []error
	if n.replay != nil {
		errs = append(errs, n.replay.close())
	}
	if n.real != nil {
		errs = append(errs, n.real.close())
	}
	if n.accept != nil {
		errs = append(errs, n.accept.close())
	}
	if n.loads != nil {
		errs = append(errs, n.loads.Close())
	}
	errs = append(errs, n.cluster.Close())
	if n.dir != "" {
		errs = append(errs, os.RemoveAll(n.dir))
	}
	return errors.Join(errs...)
}

// rules returns what iptables-save prints for the nat table of the node.
func (n *network) rules(ctx context.Context, v variant) (string, error) {
	return n.node.Output(ctx, v.multi(), "iptables-save", "-t", "nat")
}

// acceptor is the server behind every endpoint: it accepts and closes. It does so
// on a thread of its own, on the last CPU, away from the client's.
type acceptor struct {
	fd   int
	done sync.WaitGroup
	// arrived is told of every connection, and at which address it arrived; nil if
	// nobody wants to know.
	arrived atomic.Pointer[func(at netip.Addr)]
}

// newAcceptor takes over a listener.
func newAcceptor(l net.Listener) (*acceptor, error) {
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("take over a listener: %w", err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // Fd makes it blocking
	if err != nil {
		return nil, fmt.Errorf("take over a listener: %w", err)
	}
	a := &acceptor{fd: fd}
	a.done.Go(a.run)
	return a, nil
}

func (a *acceptor) run() {
	runtime.LockOSThread() // for good: the thread's CPUs are not put back
	if cpus, err := allowedCPUs(); err == nil {
		_ = pinTo(cpus[len(cpus)-1]) // it serves from any other
	}
	for {
		fd, _, err := unix.Accept4(a.fd, unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			a.report(fd)
			unix.Close(fd)
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		default:
			return // shut down by close
		}
	}
}

func (a *acceptor) report(fd int) {
	tell := a.arrived.Load()
	if tell == nil {
		return
	}
	if local, err := unix.Getsockname(fd); err == nil {
		switch sa := local.(type) {
		case *unix.SockaddrInet4:
			(*tell)(netip.AddrFrom4(sa.Addr))
		case *unix.SockaddrInet6:
			(*tell)(netip.AddrFrom16(sa.Addr).Unmap())
		}
	}
}

func (a *acceptor) close() error {
	err := unix.Shutdown(a.fd, unix.SHUT_RD) // wakes accept with EINVAL
	a.done.Wait()
	return errors.Join(err, unix.Close(a.fd))
}

// allowedCPUs are the CPUs that this thread may use, at least one.
func allowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("ask for the CPUs that may be used: %w", err)
	}
	var cpus []int
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	if len(cpus) == 0 {
		return nil, errors.New("no CPU may be used")
	}
	return cpus, nil
}

// pinTo keeps the calling thread on one CPU.
func pinTo(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}
