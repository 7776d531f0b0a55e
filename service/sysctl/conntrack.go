package sysctl

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	netfilter = "/proc/sys/net/netfilter/"
	sysfs     = "/sys/"
	hashSize  = "/sys/module/nf_conntrack/parameters/hashsize"
	online    = "/sys/devices/system/cpu/online"
	beLiberal = netfilter + "nf_conntrack_tcp_be_liberal"

	// maxEntries limits what the number of CPUs can ask for: at some 300 bytes
	// an entry, more than this is a decision for a person. kube-proxy has had the
	// same limit since 1.36.
	maxEntries = 1 << 20

	// entriesPerBucket is the ratio of table to hash table the kernel aims at.
	entriesPerBucket = 4
)

// Conntrack is the connection-tracking part of the configuration, in the words
// of KubeProxyConfiguration.conntrack. Zero leaves a parameter alone.
type Conntrack struct {
	MaxPerCore            int // entries per CPU; zero leaves the maximum alone whatever Min says
	Min                   int // entries, unless the CPUs ask for more
	TCPEstablishedTimeout time.Duration
	TCPCloseWaitTimeout   time.Duration
	TCPBeLiberal          bool // false leaves the parameter alone
	UDPTimeout            time.Duration
	UDPStreamTimeout      time.Duration
}

// ConntrackSettings returns the parameters cfg asks for on a machine with ncpu
// CPUs, to be given to Apply. The kernel counts timeouts in whole seconds: they
// are rounded up, since zero would mean that nothing is remembered.
func ConntrackSettings(cfg Conntrack, ncpu int) []Setting {
	var out []Setting
	if n := cfg.entries(ncpu); n > 0 {
		out = append(out,
			Setting{Path: netfilter + "nf_conntrack_max", Want: strconv.Itoa(n), Machine: true},
			Setting{Path: hashSize, Want: strconv.Itoa(n / entriesPerBucket), AtLeast: true, Machine: true})
	}
	if cfg.TCPBeLiberal {
		out = append(out, Setting{Path: beLiberal, Want: "1"})
	}
	for _, t := range []struct {
		name string
		d    time.Duration
	}{
		{"nf_conntrack_tcp_timeout_established", cfg.TCPEstablishedTimeout},
		{"nf_conntrack_tcp_timeout_close_wait", cfg.TCPCloseWaitTimeout},
		{"nf_conntrack_udp_timeout", cfg.UDPTimeout},
		{"nf_conntrack_udp_timeout_stream", cfg.UDPStreamTimeout},
	} {
		if t.d > 0 {
			out = append(out, Setting{Path: netfilter + t.name, Want: seconds(t.d)})
		}
	}
	return out
}

// entries follows kube-proxy: the limit is for what the CPUs ask for, and wins over
// Min only where they ask for more than it.
func (c Conntrack) entries(ncpu int) int {
	switch {
	case c.MaxPerCore <= 0:
		return 0
	case ncpu > maxEntries/c.MaxPerCore: // the product is above the limit
		return maxEntries
	default:
		return max(c.MaxPerCore*ncpu, c.Min)
	}
}

func seconds(d time.Duration) string {
	return strconv.FormatFloat(math.Ceil(d.Seconds()), 'f', 0, 64)
}

// RouteLocalnet returns the setting that lets packets to 127.0.0.0/8 be sent on
// to a pod, which node ports at 127.0.0.1 need.
func RouteLocalnet() Setting {
	return Setting{Path: "/proc/sys/net/ipv4/conf/all/route_localnet", Want: "1"}
}

// TCPBeLiberal reports whether the kernel tracks TCP segments out of window
// instead of calling them invalid. Then nothing needs to drop invalid packets.
func TCPBeLiberal(root string) (bool, error) {
	v, err := Read(root, beLiberal)
	return err == nil && v != "0", err
}

// OnlineCPUs counts the CPUs of the machine. It asks sysfs and not the Go
// runtime, because a container's share of the CPUs says nothing about how many
// connections its machine has to track.
func OnlineCPUs(root string) (int, error) {
	list, err := Read(root, online)
	if err != nil {
		return 0, err
	}
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if errA != nil || errB != nil || b < a {
			return 0, fmt.Errorf("%s: bad list of CPUs %q", online, list)
		}
		n += b - a + 1
	}
	return n, nil
}

// ReusePorts lets new connections take the ports of those that have ended (tcp_tw_reuse,
// RFC 6191), which wait for a minute otherwise: a proxy that makes very many
// connections to few endpoints runs out of ports.
func ReusePorts() Setting {
	return Setting{Path: "/proc/sys/net/ipv4/tcp_tw_reuse", Want: "1", Optional: true}
}
