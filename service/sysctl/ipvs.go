package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

const (
	vs         = "/proc/sys/net/ipv4/vs/"
	estimation = vs + "run_estimation"
	estNice    = vs + "est_nice"
	release    = "/proc/sys/kernel/osrelease"
)

// IPVS is what the command line says of kernel parameters in ipvs mode.
type IPVS struct {
	// StrictARP has the node answer ARP requests, and name itself in its own,
	// only by addresses of the interface in question.
	StrictARP bool
}

// IPVSSettings returns the parameters that ipvs mode cannot do without, for a
// kernel as root shows it. They belong to the network namespace, appear when
// ip_vs is loaded, and can be given to Reassert time and again.
//
// The masquerading of connections that IPVS has balanced takes vs/conntrack; UDP
// flows leave an endpoint that is gone by expire_nodest_conn; clients with
// affinity leave one that drains by expire_quiescent_template. A source port that
// is used again is scheduled again by conn_reuse_mode=1, which before Linux 5.9
// cost a second: there it is 0, and such a connection may reach an endpoint that
// drains.
func IPVSSettings(root string, cfg IPVS) ([]Setting, error) {
	major, minor, err := kernelVersion(root)
	if err != nil {
		return nil, err
	}
	reuse := "1"
	if major < 5 || major == 5 && minor < 9 {
		reuse = "0"
	}
	out := []Setting{
		{Path: vs + "conntrack", Want: "1"},
		{Path: vs + "expire_nodest_conn", Want: "1"},
		{Path: vs + "expire_quiescent_template", Want: "1"},
		{Path: vs + "conn_reuse_mode", Want: reuse, Optional: true}, // since Linux 4.1
		{Path: "/proc/sys/net/ipv4/ip_forward", Want: "1"},
	}
	if cfg.StrictARP {
		out = append(out,
			Setting{Path: "/proc/sys/net/ipv4/conf/all/arp_ignore", Want: "1"},
			Setting{Path: "/proc/sys/net/ipv4/conf/all/arp_announce", Want: "2"})
	}
	return out, nil
}

// EaseEstimation makes the kernel's estimates of rates, which it makes for every
// virtual server and destination, cost packets nothing, for when there are very
// many. From Linux 6.2 threads estimate: they get less of the CPU. Before, a timer
// does, for which packets have to wait: it is switched off, if the kernel is new
// enough to know how (5.16), and changed reports that it was on. The rates and
// byte counts that ipvsadm shows stand still then; numbers of connections do not.
func EaseEstimation(root string) (changed bool, err error) {
	const lower = "10"
	_, err = Read(root, estNice)
	switch {
	case err == nil:
		return Setting{Path: estNice, Want: lower, AtLeast: true, Optional: true}.apply(root)
	case errors.Is(err, fs.ErrNotExist):
		return Setting{Path: estimation, Want: "0", Optional: true}.apply(root)
	}
	return false, err
}

// IdleTimeouts returns how long connection tracking remembers an established TCP
// connection and a UDP flow with answers. IPVS has timers of its own for them:
// whichever of the two forgets first cuts the connection.
func IdleTimeouts(root string) (tcp, udp time.Duration, err error) {
	var errs []error
	read := func(name string) time.Duration {
		text, err := Read(root, netfilter+name)
		if err != nil {
			errs = append(errs, err)
			return 0
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("kernel parameter %s: %w", netfilter+name, err))
		}
		return time.Duration(n) * time.Second
	}
	tcp, udp = read("nf_conntrack_tcp_timeout_established"), read("nf_conntrack_udp_timeout_stream")
	return tcp, udp, errors.Join(errs...)
}

// kernelVersion reads the first two numbers of a release such as
// "6.1.0-13-amd64".
func kernelVersion(root string) (major, minor int, err error) {
	text, err := Read(root, release)
	if err != nil {
		return 0, 0, err
	}
	a, rest, _ := strings.Cut(text, ".")
	b := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	if major, err = strconv.Atoi(a); err == nil {
		minor, err = strconv.Atoi(b)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("kernel release %q: %w", text, err)
	}
	return major, minor, nil
}
