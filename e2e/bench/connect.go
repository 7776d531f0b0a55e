//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// positions are the Services that come first, in the middle and last in the order
// in which a proxy's own rules mention them. The order of creation says nothing:
// kube-proxy's is that of a Go map.
type positions struct{ first, middle, last netip.AddrPort }

// findPositions reads the output of iptables-save and looks for the Services
// below a number, as those above may have no endpoint. If there is a chain
// KUBE-SERVICES, its order counts, since every packet walks it; otherwise that of
// all rules.
func findPositions(rules string, services int) (positions, error) {
	order := mentioned(rules, "-A KUBE-SERVICES ", services)
	if len(order) == 0 {
		order = mentioned(rules, "-A ", services)
	}
	if len(order) == 0 {
		return positions{}, errors.New("the rules mention no Service")
	}
	return positions{order[0], order[len(order)/2], order[len(order)-1]}, nil
}

// mentioned returns the Services that rules with a prefix match, once each.
func mentioned(rules, prefix string, services int) []netip.AddrPort {
	var order []netip.AddrPort
	seen := map[netip.Addr]bool{}
	for lines := bufio.NewScanner(strings.NewReader(rules)); lines.Scan(); {
		line := lines.Text()
		_, after, ok := strings.Cut(line, " -d ")
		if !ok || !strings.HasPrefix(line, prefix) {
			continue
		}
		field, _, _ := strings.Cut(after, " ")
		p, err := netip.ParsePrefix(field)
		if err != nil || !p.IsSingleIP() || seen[p.Addr()] {
			continue
		}
		if i := serviceAt(p.Addr()); i < 0 || i >= services {
			continue
		}
		seen[p.Addr()] = true
		order = append(order, netip.AddrPortFrom(p.Addr(), servicePort))
	}
	return order
}

// path is a destination as seen from the client of one network.
type path struct {
	network *network
	target  netip.AddrPort
	result  []time.Duration // of each connect(), in the order made
	err     error           // why it was given up
}

const connectBlock = 50 // connections to one path before the next has its turn

// connectAll makes count connections to each path, in blocks that take turns, from
// a thread that stays on one CPU. A path that fails once is given up, and says so
// in its err.
func connectAll(ctx context.Context, paths []*path, count int) error {
	for done := 0; done < count; done += connectBlock {
		for _, p := range paths {
			if err := ctx.Err(); err != nil {
				return err
			}
			if p.err != nil {
				continue
			}
			err := p.network.pod.Do(func() error { return p.block(min(connectBlock, count-done)) })
			if err != nil {
				p.err = fmt.Errorf("connect to %s: %w", p.target, err)
			}
		}
	}
	return nil
}

// block makes n connections, after a few that do not count, on the first CPU that
// may be used.
func (p *path) block(n int) (err error) {
	cpus, err := allowedCPUs()
	if err != nil {
		return err
	}
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	if err := pinTo(cpus[0]); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.SchedSetaffinity(0, &before)) }()
	const warmUp = 3
	for i := range warmUp + n {
		took, err := timeConnect(p.target)
		if err != nil {
			return err
		}
		if i >= warmUp {
			p.result = append(p.result, took)
		}
	}
	return nil
}

// timeConnect measures connect(2), from SYN to SYN-ACK.
func timeConnect(to netip.AddrPort) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(5 * time.Second)) // also bounds connect
	err = errors.Join(resetOnClose(fd), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout))
	if err != nil {
		return 0, err
	}
	address := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	begun := time.Now()
	err = unix.Connect(fd, address)
	took := time.Since(begun)
	for errors.Is(err, unix.EINTR) { // the Go scheduler's signal; rare, and no measurement
		err = unix.Connect(fd, address)
		if errors.Is(err, unix.EISCONN) {
			err = nil
		}
	}
	return took, err
}
