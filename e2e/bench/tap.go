//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// writes counts requests to change the kernel, by what they are about. The
// kernel may have found nothing to do: a set that exists is "created" again.
type writes struct {
	ipvs    int // virtual servers of Services, and their destinations
	ipset   int // sets that there were before
	routing int // links, addresses, routes, rules
	nft     int
	trials  int // other virtual servers and sets: a proxy tries what the kernel can do
	lost    int // messages that were not seen

	what map[string]int // the requests, as "ipvs 5": the number is that of the command
}

// tap listens to all that the programs in one network namespace ask of the kernel
// by netlink, whoever they are: a device of the type nlmon copies every message.
type tap struct {
	ns     interface{ Do(func() error) error }
	fd     int
	known  known
	done   sync.WaitGroup
	remove func() error

	mu     sync.Mutex
	counts writes
	ended  bool
}

const tapName = "bench-nlmon"

// known is what it takes to understand messages.
type known struct {
	genl uint16 // message type of IPVS under NETLINK_GENERIC
	sets func(name string) bool
}

// newTap needs the kernel module nlmon. What is done after it returned is counted.
// The function tells which ipsets there are.
func newTap(ctx context.Context, n *network, sets func(name string) bool) (*tap, error) {
	family, err := netlink.GenlFamilyGet("IPVS")
	if err != nil {
		return nil, fmt.Errorf("ask for the number of IPVS: %w", err)
	}
	if _, err := n.node.Output(ctx, "ip", "link", "add", tapName, "type", "nlmon"); err != nil {
		return nil, err
	}
	t := &tap{ns: n.node, known: known{family.ID, sets}, remove: func() error {
		_, err := n.node.Output(context.WithoutCancel(ctx), "ip", "link", "del", tapName)
		return err
	}}
	if _, err := n.node.Output(ctx, "ip", "link", "set", tapName, "up"); err != nil {
		return nil, errors.Join(err, t.remove())
	}
	if err := n.node.Do(t.open); err != nil {
		return nil, errors.Join(fmt.Errorf("listen to %s: %w", tapName, err), t.remove())
	}
	t.done.Go(t.run)
	return t, nil
}

func (t *tap) open() (err error) {
	device, err := net.InterfaceByName(tapName)
	if err != nil {
		return err
	}
	// No protocol yet, so that nothing arrives before the filter is in place.
	t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	const buffer = 256 << 20 // a proxy that reads everything asks a lot
	filter := []unix.SockFilter{
		// The low byte of the flags of the first message, and in it NLM_F_REQUEST:
		// what the kernel says by itself or as an answer does not have it.
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flagsOffset()},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: 1, K: unix.NLM_F_REQUEST},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 20},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = errors.Join(
		unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
		unix.SetsockoptTimeval(t.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.SetsockoptSockFprog(t.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: toBigEndian(unix.ETH_P_ALL), Ifindex: device.Index}),
	)
	if err != nil {
		unix.Close(t.fd)
	}
	return err
}

// flagsOffset is where the low byte of nlmsg_flags is, on this machine.
func flagsOffset() uint32 {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return 6
	}
	return 7
}

func toBigEndian(x uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, x))
}

func (t *tap) run() {
	buf := make([]byte, 1<<20)
	for {
		n, from, err := unix.Recvfrom(t.fd, buf, 0)
		t.mu.Lock()
		ended := t.ended
		if link, ok := from.(*unix.SockaddrLinklayer); ok && err == nil {
			t.counts.count(toBigEndian(link.Protocol), t.known, buf[:n])
		}
		t.mu.Unlock()
		idle := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
		if err != nil && (!idle || ended) {
			return // everything that was there has been read
		}
	}
}

// close ends listening and returns what was seen.
func (t *tap) close() (writes, error) {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.done.Wait()
	stats, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil {
		t.counts.lost = int(stats.Drops)
	}
	return t.counts, errors.Join(err, unix.Close(t.fd), t.remove())
}

// nlMessage is a message of netlink.
type nlMessage struct {
	kind, flags uint16
	seq         uint32
	body        []byte
}

// nlMessages are those of a buffer, as far as they are whole.
func nlMessages(buf []byte) iter.Seq[nlMessage] {
	return func(yield func(nlMessage) bool) {
		for len(buf) >= unix.SizeofNlMsghdr {
			size := binary.NativeEndian.Uint32(buf)
			if size < unix.SizeofNlMsghdr || int(size) > len(buf) {
				return
			}
			m := nlMessage{
				kind: binary.NativeEndian.Uint16(buf[4:]), flags: binary.NativeEndian.Uint16(buf[6:]),
				seq: binary.NativeEndian.Uint32(buf[8:]), body: buf[unix.SizeofNlMsghdr:size],
			}
			if !yield(m) {
				return
			}
			buf = buf[min(len(buf), int(size+3)&^3):]
		}
	}
}

// count looks at the messages of one buffer. The protocol is that of the netlink
// socket.
func (w *writes) count(protocol uint16, k known, buf []byte) {
	for m := range nlMessages(buf) {
		if m.flags&unix.NLM_F_REQUEST != 0 {
			w.message(protocol, m.kind, k, m.body)
		}
	}
}

// message counts one message if it is to write. IPVS's timeouts are settings, as
// sysctls are, and the connection tracker's entries are no rules.
func (w *writes) message(protocol, kind uint16, k known, body []byte) {
	const header = 4 // of generic netlink and of netfilter, before the attributes
	switch {
	case protocol == unix.NETLINK_ROUTE && kind >= unix.RTM_BASE:
		if kind&3 != unix.RTM_GETLINK&3 {
			w.note(&w.routing, "route", kind)
		}
	case len(body) < header:
	case protocol == unix.NETLINK_GENERIC && kind == k.genl:
		switch body[0] {
		case 1, 2, 3, 5, 6, 7, 16, 17: // NEW, SET, DEL of SERVICE and DEST, ZERO, FLUSH
			w.note(w.ifAbout(&w.ipvs, aboutService(body[header:])), "ipvs", uint16(body[0]))
		}
	case protocol == unix.NETLINK_NETFILTER && kind>>8 == unix.NFNL_SUBSYS_IPSET:
		switch kind & 0xff {
		case 2, 3, 4, 5, 6, 9, 10: // CREATE, DESTROY, FLUSH, RENAME, SWAP, ADD, DEL
			const setName = 2
			name := strings.TrimRight(string(attribute(body[header:], setName)), "\x00")
			w.note(w.ifAbout(&w.ipset, k.sets(name)), "ipset", kind&0xff)
		}
	case protocol == unix.NETLINK_NETFILTER && kind>>8 == unix.NFNL_SUBSYS_NFTABLES:
		if changesNft(kind & 0xff) {
			w.note(&w.nft, "nft", kind&0xff)
		}
	}
}

// changesNft reports whether a message of nf_tables is to change something, or says that
// something has been.
func changesNft(kind uint16) bool {
	switch kind {
	case 0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 18, 20: // NEW and DEL of TABLE, CHAIN, RULE, SET, SETELEM, OBJ
		return true
	}
	return false
}

func (w *writes) ifAbout(n *int, about bool) *int {
	if about {
		return n
	}
	return &w.trials
}

func (w *writes) note(n *int, name string, command uint16) {
	*n++
	if w.what == nil {
		w.what = map[string]int{}
	}
	if n == &w.trials {
		name = "trial " + name
	}
	w.what[fmt.Sprint(name, " ", command)]++
}

// aboutService reports whether a message to IPVS, without its header, is about a
// Service's virtual server, or about all of them.
func aboutService(attributes []byte) bool {
	const service, address = 1, 3 // IPVS_CMD_ATTR_SERVICE, and IPVS_SVC_ATTR_ADDR in it
	of := attribute(attributes, service)
	addr := attribute(of, address)
	return of == nil || len(addr) >= 4 && addr[0] == 10 && addr[1] == 96
}

// attribute returns the payload of a netlink attribute; nil if there is none.
func attribute(list []byte, number uint16) []byte {
	const header, kindMask = 4, 0x3fff
	for len(list) >= header {
		size := int(binary.NativeEndian.Uint16(list))
		if size < header || size > len(list) {
			return nil
		}
		if binary.NativeEndian.Uint16(list[2:])&kindMask == number {
			return list[header:size]
		}
		list = list[min(len(list), (size+3)&^3):]
	}
	return nil
}
