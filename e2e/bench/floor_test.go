//go:build linux

package main

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// numbered makes size bytes of which every four are a number of their own.
func numberedBytes(first, size int) []byte {
	b := make([]byte, 0, size)
	for i := range size / 4 {
		b = binary.NativeEndian.AppendUint32(b, uint32(first+i))
	}
	return b
}

func TestFillReplace(t *testing.T) {
	info, rules := numberedBytes(100, infoSize), numberedBytes(1000, 24)
	set := make([]byte, replaceSize+len(rules))
	for i := range set {
		set[i] = 0xff // of the last time
	}
	fillReplace(set, info, rules, 7)
	if got := string(set[:4]); got != "nat\x00" {
		t.Errorf("the table is %q", got)
	}
	// struct ipt_replace after the name: the hooks of struct ipt_getinfo, which come first
	// there, the number of rules, their size, ten points of entry, the number of counters.
	var got []int
	for at := 32; at < len(set); at += 4 {
		got = append(got, int(binary.NativeEndian.Uint32(set[at:])))
	}
	want := []int{108, 7, 24, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 7, 0, 0, 1000, 1001, 1002, 1003, 1004, 1005}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestRuleAddedMessages(t *testing.T) {
	var r ruleAdded
	if err := r.prepare(); err != nil {
		t.Fatal(err)
	}
	var kinds []uint16
	var last nlMessage
	size := 0
	for m := range nlMessages(r.out) {
		kinds, last = append(kinds, m.kind), m
		size += unix.SizeofNlMsghdr + len(m.body)
		if m.kind == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE {
			if got, want := nftAbout(m.kind&0xff, m.body), (nftChain{unix.NFPROTO_IPV4, "nat", floorChain}); got != want {
				t.Errorf("the rule is for %v, want %v", got, want)
			}
		}
	}
	if diff := cmp.Diff(kinds, []uint16{unix.NFNL_MSG_BATCH_BEGIN, 0xa03, 0xa06, unix.NFNL_MSG_BATCH_END}); diff != "" {
		t.Errorf("messages (-got +want):\n%s", diff)
	}
	if size != len(r.out) || last.seq != r.seq || last.flags&unix.NLM_F_ACK == 0 {
		t.Errorf("%d bytes of %d are messages; the last of them is %d of %d, with flags %x", size, len(r.out), last.seq, r.seq, last.flags)
	}
}

func TestNlAnswer(t *testing.T) {
	answer := func(seq uint32, errno int32) []byte {
		b := netlinkRequest(unix.NLMSG_ERROR, 0, binary.NativeEndian.AppendUint32(nil, uint32(-errno))...)
		binary.NativeEndian.PutUint32(b[8:], seq)
		return b
	}
	for name, test := range map[string]struct {
		buf    []byte
		done   bool
		failed bool
	}{
		"nothing":             {nil, false, false},
		"an end":              {answer(4, 0), true, false},
		"another's":           {answer(3, 0), false, false},
		"an objection before": {append(answer(2, int32(unix.EBUSY)), answer(4, 0)...), true, true},
	} {
		if done, err := nlAnswer(test.buf, 4); done != test.done || (err != nil) != test.failed {
			t.Errorf("%s: got %v, %v", name, done, err)
		}
	}
}

// announcement is what the kernel says of a change to a chain, or to a rule in it.
func announcement(kind uint16, chain string) []byte {
	name := uint16(unix.NFTA_CHAIN_NAME)
	if kind == unix.NFT_MSG_NEWRULE || kind == unix.NFT_MSG_DELRULE {
		name = unix.NFTA_RULE_CHAIN
	}
	body := append([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, nlAttr(unix.NFTA_CHAIN_TABLE, nlText("nat"))...)
	return netlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, 0, append(body, nlAttr(name, nlText(chain))...)...)
}

func TestNftLedger(t *testing.T) {
	const newChain, delChain, newRule, delRule = unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE
	type change struct {
		kind  uint16
		chain string
	}
	for name, test := range map[string]struct {
		changes []change
		want    writesMade
	}{
		"nothing":                 {nil, writesMade{}},
		"a rule of old":           {[]change{{delRule, "OLD"}, {newRule, "OLD"}}, writesMade{inForce: 2}},
		"a chain of old is gone":  {[]change{{delRule, "OLD"}, {delChain, "OLD"}}, writesMade{inForce: 2}},
		"a new chain stays":       {[]change{{newChain, "NEW"}, {newRule, "NEW"}}, writesMade{inForce: 2}},
		"a trial":                 {[]change{{newChain, "TRY"}, {newRule, "TRY"}, {delRule, "TRY"}, {delChain, "TRY"}}, writesMade{tried: 4}},
		"a trial that comes back": {[]change{{newChain, "TRY"}, {delChain, "TRY"}, {newChain, "TRY"}}, writesMade{inForce: 3}},
		"a set":                   {[]change{{unix.NFT_MSG_NEWSETELEM, ""}}, writesMade{inForce: 1}},
		"the end of it":           {[]change{{unix.NFT_MSG_NEWGEN, ""}}, writesMade{}},
	} {
		l := newNftLedger(map[nftChain]bool{{unix.NFPROTO_IPV4, "nat", "OLD"}: true})
		for _, c := range test.changes {
			l.announced(announcement(c.kind, c.chain))
		}
		if got, _, _ := l.made(); got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}
