//go:build linux

package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// nftChain names a chain of nf_tables.
type nftChain struct {
	family      byte
	table, name string
}

// nftAbout returns the chain that a message of nf_tables is about: a chain, or one of
// its rules. It is the zero value if it is about something else.
func nftAbout(kind uint16, body []byte) nftChain {
	const header = 4 // struct nfgenmsg
	table, chain := uint16(unix.NFTA_CHAIN_TABLE), uint16(unix.NFTA_CHAIN_NAME)
	switch kind {
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		table, chain = unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
	default:
		return nftChain{}
	}
	if len(body) < header {
		return nftChain{}
	}
	text := func(number uint16) string { return strings.TrimRight(string(attribute(body[header:], number)), "\x00") }
	return nftChain{body[0], text(table), text(chain)}
}

// nftLedger is what has changed in nftables, chain by chain.
type nftLedger struct {
	before map[nftChain]bool // chains that there were
	counts map[nftChain]int
	gone   map[nftChain]bool // deleted, and not made again
}

func newNftLedger(before map[nftChain]bool) *nftLedger {
	return &nftLedger{before: before, counts: map[nftChain]int{}, gone: map[nftChain]bool{}}
}

// announced notes what the messages of a buffer say has changed.
func (l *nftLedger) announced(buf []byte) {
	for m := range nlMessages(buf) {
		kind := m.kind & 0xff
		if m.kind>>8 != unix.NFNL_SUBSYS_NFTABLES || !changesNft(kind) {
			continue
		}
		at := nftAbout(kind, m.body)
		l.counts[at]++
		switch kind {
		case unix.NFT_MSG_NEWCHAIN:
			delete(l.gone, at)
		case unix.NFT_MSG_DELCHAIN:
			l.gone[at] = true
		}
	}
}

// tried says that a chain was not there before, and is not there now.
func (l *nftLedger) tried(at nftChain) bool { return l.gone[at] && !l.before[at] }

// made adds up, and says where most was written: in what is in force, and in chains
// that were tried.
func (l *nftLedger) made() (made writesMade, where, tried []string) {
	for at, n := range l.counts {
		if l.tried(at) {
			made.tried += n
		} else {
			made.inForce += n
		}
	}
	most := slices.SortedFunc(maps.Keys(l.counts), func(a, b nftChain) int {
		return cmp.Or(-cmp.Compare(l.counts[a], l.counts[b]), cmp.Compare(a.table, b.table), cmp.Compare(a.name, b.name))
	})
	const shown = 9
	for _, at := range most {
		list := &where
		if l.tried(at) {
			list = &tried
		}
		if len(*list) < shown {
			*list = append(*list, fmt.Sprintf("%d %s %s: %d", at.family, at.table, at.name, l.counts[at]))
		}
	}
	return made, where, tried
}

// nftWatch counts what the kernel says has changed in nftables, in one network
// namespace, whoever changed it. iptables-nft is among that.
type nftWatch struct {
	fd   int
	done sync.WaitGroup

	mu     sync.Mutex
	ended  bool
	ledger *nftLedger
	missed error
}

func newNftWatch(n *network) (*nftWatch, error) {
	const group, buffer = 7, 128 << 20 // NFNLGRP_NFTABLES
	w := &nftWatch{}
	err := n.node.Do(func() (err error) {
		before, err := nftChains()
		if err != nil {
			return err
		}
		w.ledger = newNftLedger(before)
		if w.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		err = errors.Join(
			unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
			unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
			unix.Bind(w.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (group - 1)}))
		if err != nil {
			unix.Close(w.fd)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen to nftables: %w", err)
	}
	w.done.Go(w.run)
	return w, nil
}

// nftChains are all chains of the network namespace of the calling thread.
func nftChains() (map[nftChain]bool, error) {
	r, err := newRuleAdded()
	if err != nil {
		return nil, err
	}
	defer r.close()
	all := map[nftChain]bool{}
	r.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, unix.AF_UNSPEC, 0)
	if err := unix.Sendto(r.fd, r.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask for chains: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(r.fd, r.in, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("list chains: %w", err)
		}
		for m := range nlMessages(r.in[:n]) {
			if m.kind == unix.NLMSG_DONE || m.kind == unix.NLMSG_ERROR {
				return all, dumpEnd(m)
			}
			all[nftAbout(m.kind&0xff, m.body)] = true
		}
	}
}

// dumpEnd is the error with which a list ends; nil if it ends well.
func dumpEnd(m nlMessage) error {
	if len(m.body) < 4 {
		return errors.New("list chains: an answer that is cut short")
	}
	if errno := -int32(binary.NativeEndian.Uint32(m.body)); errno != 0 {
		return fmt.Errorf("list chains: %w", unix.Errno(errno))
	}
	return nil
}

func (w *nftWatch) run() {
	buf := make([]byte, 1<<20)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		w.mu.Lock()
		ended := w.ended
		switch {
		case err == nil:
			w.ledger.announced(buf[:n])
		case errors.Is(err, unix.ENOBUFS):
			w.missed = errors.New("more was written to nftables than could be counted")
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			ended, w.missed = true, err
		}
		w.mu.Unlock()
		if err != nil && ended {
			return
		}
	}
}

// close ends listening, and returns what [nftLedger.made] does.
func (w *nftWatch) close() (made writesMade, where, tried []string, err error) {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.done.Wait()
	made, where, tried = w.ledger.made()
	return made, where, tried, errors.Join(w.missed, unix.Close(w.fd))
}
