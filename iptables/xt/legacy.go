//go:build linux && (amd64 || arm64 || arm || ppc64le || riscv64)

package xt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// LegacyChains lists the chains of every table of f that the legacy variant has in the
// network namespace of the calling thread, without any of the tools: a large table takes
// a twentieth of the time that iptables-save does. Built-in chains are not among them.
// No kernel module is loaded, and no table made. It fits [ExecConfig].List.
func LegacyChains(ctx context.Context, f Family) ([]ChainRef, error) {
	list := "/proc/thread-self/net/ip_tables_names"
	if f == IPv6 {
		list = "/proc/thread-self/net/ip6_tables_names"
	}
	names, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // no module, and so no table
	}
	if err != nil {
		return nil, fmt.Errorf("list legacy tables: %w", err)
	}
	var out []ChainRef
	for _, name := range strings.Fields(string(names)) {
		err := eachLegacyChain(ctx, f, Table(name), func(chain string) {
			out = append(out, ChainRef{Table(name), chain})
		})
		if err != nil {
			return nil, fmt.Errorf("read %v table %s: %w", f, name, err)
		}
	}
	return out, nil
}

// fewRules reports whether the tables of the legacy variant have so few rules together
// that to read them costs less than to start a tool.
func fewRules(f Family, tables []Table) bool {
	const few = 1000
	sum := uint32(0)
	for _, t := range tables {
		info, err := tableInfo(f, t)
		if err != nil {
			return false
		}
		sum += info.Entries
	}
	return sum <= few
}

const (
	soGetEntries  = 65 // IPT_SO_GET_ENTRIES and IP6T_SO_GET_ENTRIES
	entriesHeader = 40 // struct ipt_get_entries: a name, a size, and what aligns the entries

	maxReadings = 10 // of a table that somebody changes
)

// eachLegacyChain has the kernel give a table as it keeps it. The memory for that is
// given back at once, which that of the heap would not be.
func eachLegacyChain(ctx context.Context, f Family, t Table, each func(string)) error {
	for try := 1; ; try++ {
		info, err := tableInfo(f, t)
		if err != nil {
			return err
		}
		b, err := syscall.Mmap(-1, 0, entriesHeader+int(info.Size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return os.NewSyscallError("mmap", err)
		}
		copy(b, t)
		binary.NativeEndian.PutUint32(b[32:], info.Size)
		err = getEntries(f, b)
		if err == nil {
			err = walkEntries(f, b[entriesHeader:], each)
		}
		err = errors.Join(err, syscall.Munmap(b))
		if !errors.Is(err, syscall.EAGAIN) || try == maxReadings || ctx.Err() != nil {
			return err
		}
	}
}

func getEntries(f Family, b []byte) error {
	domain, level := syscall.AF_INET, syscall.SOL_IP
	if f == IPv6 {
		domain, level = syscall.AF_INET6, syscall.SOL_IPV6
	}
	fd, err := syscall.Socket(domain, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.IPPROTO_RAW)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	size := uint32(len(b))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), soGetEntries,
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}

// errMalformed says that a table makes no sense.
var errMalformed = errors.New("entries that cannot be understood")

// walkEntries finds the chains among the entries of a table. Each begins with an entry
// whose target is ERROR with the name of the chain; so does what ends the table.
func walkEntries(f Family, entries []byte, each func(string)) error {
	// Of struct ipt_entry or ip6t_entry: where the offsets of the target and of the next
	// entry are. Then of struct xt_error_target, whose name begins with "ERROR".
	offsets := 88
	if f == IPv6 {
		offsets = 140
	}
	const targetName, errorName, errorLen = 2, 32, 30
	for rest := entries; len(rest) > 0; {
		if len(rest) < offsets+4 {
			return errMalformed
		}
		target := int(binary.NativeEndian.Uint16(rest[offsets:]))
		next := int(binary.NativeEndian.Uint16(rest[offsets+2:]))
		if next <= target || next > len(rest) {
			return errMalformed
		}
		e := rest[target:next]
		rest = rest[next:]
		if len(rest) > 0 && len(e) >= errorName+errorLen && string(cutNul(e[targetName:errorName-1])) == "ERROR" {
			each(string(cutNul(e[errorName : errorName+errorLen])))
		}
	}
	return nil
}

func cutNul(b []byte) []byte {
	before, _, _ := bytes.Cut(b, []byte{0})
	return before
}
