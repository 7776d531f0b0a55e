//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket options of linux/netfilter_ipv4/ip_tables.h.
const (
	optReplace = 64 // IPT_SO_SET_REPLACE
	optInfo    = 64 // IPT_SO_GET_INFO
	optEntries = 65 // IPT_SO_GET_ENTRIES
)

// Where the fields of its structs are.
const (
	infoSize, infoHooks, infoEntries, infoBytes = 84, 32, 76, 80 // struct ipt_getinfo
	getSize, getBytes                           = 40, 32         // struct ipt_get_entries
	replaceSize, replaceHooks, replaceEntries   = 96, 32, 36     // struct ipt_replace
	replaceBytes, replacePoints                 = 40, 44
	replaceCounters, replaceCountersAt          = 84, 88
	pointsSize                                  = 40 // hook_entry and underflow, in both
	counterSize                                 = 16
	tableNat                                    = "nat"
)

// tableCopy reads the table nat of legacy iptables and sets it back as it is. There is
// no smaller change.
type tableCopy struct {
	fd       int
	info     []byte
	get, set []byte // as large as the table was last
	counters []byte
}

func newTableCopy() (*tableCopy, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	return &tableCopy{fd: fd, info: make([]byte, infoSize)}, nil
}

// prepare makes room, which is not what takes the kernel long.
func (c *tableCopy) prepare() error {
	entries, size, err := c.describe()
	if err != nil {
		return err
	}
	c.get = grown(c.get, getSize+size)
	c.set = grown(c.set, replaceSize+size)
	c.counters = grown(c.counters, counterSize*entries)
	return nil
}

func grown(b []byte, size int) []byte {
	if cap(b) < size {
		return make([]byte, size)
	}
	return b[:size]
}

// describe asks for the number of rules and their size.
func (c *tableCopy) describe() (entries, size int, err error) {
	copy(c.info, tableNat)
	if err := c.ask(optInfo, c.info); err != nil {
		return 0, 0, fmt.Errorf("ask for the size of the table: %w", err)
	}
	return int(binary.NativeEndian.Uint32(c.info[infoEntries:])), int(binary.NativeEndian.Uint32(c.info[infoBytes:])), nil
}

func (c *tableCopy) change() error {
	entries, size, err := c.describe()
	if err != nil {
		return err
	}
	if getSize+size != len(c.get) {
		return errors.New("somebody else changes the table")
	}
	copy(c.get, tableNat)
	binary.NativeEndian.PutUint32(c.get[getBytes:], uint32(size))
	if err := c.ask(optEntries, c.get); err != nil {
		return fmt.Errorf("read the table: %w", err)
	}
	fillReplace(c.set, c.info, c.get[getSize:], entries)
	var held runtime.Pinner
	defer held.Unpin()
	held.Pin(&c.counters[0])
	binary.NativeEndian.PutUint64(c.set[replaceCountersAt:], uint64(uintptr(unsafe.Pointer(&c.counters[0]))))
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(c.fd), unix.SOL_IP, optReplace, uintptr(unsafe.Pointer(&c.set[0])), uintptr(len(c.set)), 0)
	if errno != 0 {
		return fmt.Errorf("set the table: %w", errno)
	}
	return nil
}

// fillReplace makes a struct ipt_replace that sets what was read. Where the old counters
// are to go is not yet in it.
func fillReplace(set, info, rules []byte, entries int) {
	clear(set[:replaceSize])
	copy(set, tableNat)
	copy(set[replaceHooks:], info[infoHooks:infoHooks+4])
	binary.NativeEndian.PutUint32(set[replaceEntries:], uint32(entries))
	binary.NativeEndian.PutUint32(set[replaceBytes:], uint32(len(rules)))
	copy(set[replacePoints:replacePoints+pointsSize], info[infoHooks+4:])
	binary.NativeEndian.PutUint32(set[replaceCounters:], uint32(entries))
	copy(set[replaceSize:], rules)
}

// undo has nothing to do: the table is as it was, but for its counters.
func (c *tableCopy) undo() error { return nil }

func (c *tableCopy) close() error { return unix.Close(c.fd) }

// ask is getsockopt with a question in b.
func (c *tableCopy) ask(option uintptr, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(c.fd), unix.SOL_IP, option,
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
