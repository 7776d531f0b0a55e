//go:build linux

package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Watch counts the packets that arrive at an interface for some destination. The
// kernel does the counting, with a filter on a packet socket, so none is missed.
// Segments that the kernel has merged count as one.
type Watch struct {
	disown func()

	mu    sync.Mutex
	fd    int // -1 when closed
	count int
}

// Watch counts the packets to dst that arrive at the router from the nodes. A
// node that has no rule for a Service address sends its packets along the default
// route: then they are seen here.
func (c *Cluster) Watch(dst netip.Prefix) (*Watch, error) {
	return c.Router.Watch(NodesBridge, dst)
}

// Watch counts the packets to dst that arrive at an interface, from now on. What
// the namespace itself sends is not counted, nor what passes a bridge without
// being meant for the namespace.
func (ns *NS) Watch(dev string, dst netip.Prefix) (*Watch, error) {
	w := &Watch{fd: -1}
	err := w.open(ns, dev, dst)
	if err == nil {
		w.disown, err = ns.own(w)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s in %s: %w", dev, ns.name, err), w.close())
	}
	return w, nil
}

func (w *Watch) open(ns *NS, dev string, dst netip.Prefix) (err error) {
	index := 0
	err = ns.Do(func() error {
		i, err := net.InterfaceByName(dev)
		if err == nil {
			index = i.Index
		}
		return err
	})
	if err != nil {
		return err
	}
	// Protocol 0 receives nothing, until bind says what, with the filter in place.
	if w.fd, err = ns.socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0); err != nil {
		return err
	}
	filter := arrivalsTo(dst)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	proto := uint16(unix.ETH_P_IPV6)
	if dst.Addr().Is4() {
		proto = unix.ETH_P_IP
	}
	network := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, proto))
	err = unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: network, Ifindex: index})
	return os.NewSyscallError("bind", err)
}

// Count returns how many packets have arrived since the watch began. After Close
// it returns what there was at the time.
func (w *Watch) Count() (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.update()
	return w.count, err
}

// update adds what came since the last update: reading the statistics clears
// them. They include packets that did not fit into the socket's buffer, which
// nobody empties.
func (w *Watch) update() error {
	if w.fd < 0 {
		return nil
	}
	stats, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("read packet statistics: %w", err)
	}
	w.count += int(stats.Packets)
	return nil
}

// Close ends the watch. Closing twice does nothing.
func (w *Watch) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return nil
	}
	w.disown()
	return errors.Join(w.update(), w.close())
}

func (w *Watch) close() error {
	if w.fd < 0 {
		return nil
	}
	fd := w.fd
	w.fd = -1
	return unix.Close(fd)
}

// arrivalsTo is a filter for packets to a prefix that are meant for this host.
// The packet begins with its IP header.
func arrivalsTo(dst netip.Prefix) []unix.SockFilter {
	type check struct {
		load uint16 // size to load
		at   uint32
		mask uint32
		want uint32
	}
	const packetType = 0xfffff004 // SKF_AD_OFF + SKF_AD_PKTTYPE
	checks := []check{{unix.BPF_B, packetType, 0xff, unix.PACKET_HOST}}
	offset, addr := uint32(24), dst.Masked().Addr().AsSlice()
	if dst.Addr().Is4() {
		offset = 16
	}
	for i := 0; i < dst.Bits(); i += 32 {
		mask := ^uint32(0)
		if rest := dst.Bits() - i; rest < 32 {
			mask <<= 32 - rest
		}
		checks = append(checks, check{unix.BPF_W, offset + uint32(i/8), mask, binary.BigEndian.Uint32(addr[i/8:])})
	}
	var program []unix.SockFilter
	for i, c := range checks {
		toDrop := uint8(3*(len(checks)-1-i) + 1) // over the checks left and the accept
		program = append(program,
			unix.SockFilter{Code: unix.BPF_LD | unix.BPF_ABS | c.load, K: c.at},
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c.want, Jf: toDrop},
		)
	}
	return append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	)
}
