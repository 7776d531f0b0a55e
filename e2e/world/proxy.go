//go:build linux

package world

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// A Program is a proxy to be tested.
type Program struct {
	Path string
	Args []string // the same for every case
	Env  []string // added to the environment
	Mode Mode     // of fairlead; empty for other programs
}

// metricsAt is where programs that have something to say about themselves do so,
// on n1.
var metricsAt = netip.MustParseAddrPort("127.0.0.1:10249")

// A Mode is a way for fairlead to put Services in force.
type Mode string

// The modes, which Deviations tells apart.
const (
	IPTables   Mode = "iptables"
	IPVS       Mode = "ipvs"        // virtual addresses are routed
	IPVSDevice Mode = "ipvs-device" // virtual addresses are on a device
	Userspace  Mode = "userspace"
)

// IPVS reports whether m is one of the IPVS modes, where what was removed stays as
// long as it has connections.
func (m Mode) IPVS() bool { return m == IPVS || m == IPVSDevice }

// Fairlead is the program under test at a path, with the flags that no case
// changes. The variant is one of --iptables-variant.
func Fairlead(path, variant string) Program { return FairleadMode(path, IPTables, variant) }

// FairleadMode is Fairlead in a mode. Further arguments win over the usual ones.
func FairleadMode(path string, mode Mode, variant string, extra ...string) Program {
	p := Program{Path: path, Mode: mode, Args: []string{
		"--iptables-variant=" + variant, "--hostname-override=n1", "--v=2",
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=" + metricsAt.String(),
		"--status-socket=", // the usual path is one for all namespaces
	}}
	switch mode {
	case IPVS, IPVSDevice:
		vip := "routed"
		if mode == IPVSDevice {
			vip = "device"
		}
		p.Args = append(p.Args, "--proxy-mode=ipvs", "--ipvs-vip-mode="+vip,
			"--ipvs-min-sync-period=0s", "--ipvs-sync-period=30s",
			// Connections of one case must not delay what the next expects.
			"--ipvs-drain-timeout=1s")
	default:
		p.Args = append(p.Args, "--proxy-mode="+string(mode),
			"--iptables-min-sync-period=0s", "--iptables-sync-period=30s")
	}
	p.Args = append(p.Args, extra...)
	return p
}

// NodeArgs turns the node directive of a case into flags, which are kube-proxy's.
// With nodeCIDR the pod CIDRs are left to the Node object.
func NodeArgs(c servicetest.Config, nodeCIDR bool) []string {
	args := []string{
		fmt.Sprintf("--masquerade-all=%t", c.MasqueradeAll),
		fmt.Sprintf("--iptables-localhost-nodeports=%t", c.LocalhostPorts),
	}
	switch c.NodePorts {
	case "":
	case "none":
		// No list is every address; this one is nobody's.
		args = append(args, "--nodeport-addresses=192.0.2.255/32")
	default:
		args = append(args, "--nodeport-addresses="+c.NodePorts)
	}
	kind, arg, _ := strings.Cut(c.Detector, ":")
	switch {
	case kind == "bridge":
		return append(args, "--detect-local-mode=BridgeInterface", "--pod-bridge-interface="+arg)
	case kind == "prefix":
		return append(args, "--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix="+arg)
	case kind == "node" && nodeCIDR:
		return append(args, "--detect-local-mode=NodeCIDR")
	case kind == "none":
		return append(args, "--detect-local-mode=ClusterCIDR")
	case arg == "":
		arg = "10.244.0.0/16,fd00:10:244::/48"
	}
	return append(args, "--detect-local-mode=ClusterCIDR", "--cluster-cidr="+arg)
}

// A Proxy is a proxy running on n1.
type Proxy struct {
	*netns.Process
	mode Mode
}

// Start runs a program on n1 with further arguments. It returns at once: see
// [World.Await].
func (w *World) Start(ctx context.Context, prog Program, args ...string) (*Proxy, error) {
	p := w.N1.Command(ctx, prog.Path, slices.Concat(prog.Args, args)...)
	p.Cmd.Env = slices.Concat(os.Environ(), []string{
		"XTABLES_LOCKFILE=" + w.LockFile(),
	}, prog.Env)
	if err := p.Start(); err != nil {
		return nil, err
	}
	return &Proxy{p, prog.Mode}, nil
}

// LockFile is the lock of iptables-legacy on n1; the usual one is shared by all
// namespaces.
func (w *World) LockFile() string {
	return filepath.Join(os.TempDir(), filepath.Base(w.N1.Path())+".xtables.lock")
}

// Stop ends the proxy as a service manager would, and reports an end that was
// not a clean one.
func (p *Proxy) Stop() error {
	err := p.Process.Stop(10 * time.Second)
	if err != nil {
		return fmt.Errorf("stop proxy: %w\n%s", err, p.Tail(20))
	}
	return nil
}

// Tail is the end of what the proxy has written.
func (p *Proxy) Tail(lines int) string {
	all := strings.Split(strings.TrimRight(p.Output(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// errEnded says that a proxy is not there any more.
var errEnded = errors.New("the proxy has ended")

// ended returns errEnded, with the reason, if the proxy has.
func (p *Proxy) ended() error {
	select {
	case <-p.Done():
		return fmt.Errorf("%w: %v", errEnded, p.Wait())
	default:
		return nil
	}
}
