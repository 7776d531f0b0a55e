//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ruleAdded adds one rule, with a verdict, to a chain of its own in the table nat of
// iptables-nft, to which no rule leads: one transaction. Whatever it adds, the kernel then
// looks at all rules of the table that packets can reach.
type ruleAdded struct {
	fd  int
	seq uint32
	out []byte // the next message
	in  []byte
}

const floorChain = "BENCH-FLOOR"

func newRuleAdded() (*ruleAdded, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &ruleAdded{fd: fd, in: make([]byte, 64<<10)}, nil
}

func (r *ruleAdded) prepare() error {
	verdict := nlAttr(unix.NFTA_DATA_VERDICT, nlAttr(unix.NFTA_VERDICT_CODE, []byte{0, 0, 0, 1})) // NF_ACCEPT
	immediate := append(nlAttr(unix.NFTA_IMMEDIATE_DREG, []byte{0, 0, 0, unix.NFT_REG_VERDICT}), nlAttr(unix.NFTA_IMMEDIATE_DATA, verdict)...)
	expr := append(nlAttr(unix.NFTA_EXPR_NAME, nlText("immediate")), nlAttr(unix.NFTA_EXPR_DATA, immediate)...)
	r.begin()
	r.chain(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	r.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, unix.NFPROTO_IPV4, 0,
		nlAttr(unix.NFTA_RULE_TABLE, nlText("nat")), nlAttr(unix.NFTA_RULE_CHAIN, nlText(floorChain)),
		nlAttr(unix.NFTA_RULE_EXPRESSIONS, nlAttr(unix.NFTA_LIST_ELEM, expr)))
	r.end()
	return nil
}

func (r *ruleAdded) change() error { return r.commit() }

func (r *ruleAdded) undo() error {
	r.begin()
	r.chain(unix.NFT_MSG_DELCHAIN, 0)
	r.end()
	return r.commit()
}

func (r *ruleAdded) close() error { return unix.Close(r.fd) }

func (r *ruleAdded) begin() {
	r.out = r.out[:0]
	r.message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
}

func (r *ruleAdded) end() {
	r.message(unix.NFNL_MSG_BATCH_END, unix.NLM_F_ACK, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
}

func (r *ruleAdded) chain(verb, flags uint16) {
	r.message(unix.NFNL_SUBSYS_NFTABLES<<8|verb, flags, unix.NFPROTO_IPV4, 0,
		nlAttr(unix.NFTA_CHAIN_TABLE, nlText("nat")), nlAttr(unix.NFTA_CHAIN_NAME, nlText(floorChain)))
}

// message adds one message of netfilter.
func (r *ruleAdded) message(kind, flags uint16, family byte, resource uint16, attrs ...[]byte) {
	r.seq++
	at := len(r.out)
	r.out = binary.NativeEndian.AppendUint32(r.out, 0)
	r.out = binary.NativeEndian.AppendUint16(r.out, kind)
	r.out = binary.NativeEndian.AppendUint16(r.out, unix.NLM_F_REQUEST|flags)
	r.out = binary.NativeEndian.AppendUint32(r.out, r.seq)
	r.out = append(r.out, 0, 0, 0, 0, family, 0, byte(resource>>8), byte(resource))
	for _, a := range attrs {
		r.out = append(r.out, a...)
	}
	binary.NativeEndian.PutUint32(r.out[at:], uint32(len(r.out)-at))
}

// commit sends the messages, and returns when the kernel has said that it is done.
func (r *ruleAdded) commit() error {
	if err := unix.Sendto(r.fd, r.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send a transaction: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(r.fd, r.in, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("await the end of a transaction: %w", err)
		}
		done, err := nlAnswer(r.in[:n], r.seq)
		if done || err != nil {
			return err
		}
	}
}

// nlAnswer reports whether a buffer has the answer to the message with a number, and the
// first objection to any message.
func nlAnswer(buf []byte, seq uint32) (done bool, err error) {
	for m := range nlMessages(buf) {
		if m.kind != unix.NLMSG_ERROR || len(m.body) < 4 {
			continue
		}
		if errno := -int32(binary.NativeEndian.Uint32(m.body)); errno != 0 {
			return true, fmt.Errorf("nf_tables: %w", unix.Errno(errno))
		}
		done = done || m.seq == seq
	}
	return done, nil
}

// nlAttr makes a netlink attribute, padded.
func nlAttr(number uint16, payload []byte) []byte {
	const header = 4
	b := binary.NativeEndian.AppendUint16(nil, uint16(header+len(payload)))
	b = append(binary.NativeEndian.AppendUint16(b, number), payload...)
	return append(b, make([]byte, -len(b)&3)...)
}

func nlText(s string) []byte { return append([]byte(s), 0) }
