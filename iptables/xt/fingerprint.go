//go:build linux && (amd64 || arm64 || arm || ppc64le || riscv64)

package xt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// fingerprint asks the kernel itself, in a few microseconds and without any of
// the tools: the legacy tables for their number of rules and their size, nf_tables
// for its generation.
func fingerprint(legacy bool, f Family, tables []Table) (string, error) {
	if !legacy {
		gen, err := generation()
		if err != nil {
			return "", fmt.Errorf("ask for the generation of nf_tables: %w", err)
		}
		return exactPrint + fmt.Sprint(gen), nil
	}
	var b strings.Builder
	for _, t := range tables {
		info, err := tableInfo(f, t)
		if err != nil {
			return "", fmt.Errorf("ask for the size of table %s: %w", t, err)
		}
		fmt.Fprintf(&b, "%s %d %d ", t, info.Entries, info.Size)
	}
	return b.String(), nil
}

// A getInfo is struct ipt_getinfo of linux/netfilter_ipv4/ip_tables.h, which is
// that of ip6_tables.h too.
type getInfo struct {
	Name          [32]byte
	ValidHooks    uint32
	HookEntry     [5]uint32
	Underflow     [5]uint32
	Entries, Size uint32
}

const soGetInfo = 64 // IPT_SO_GET_INFO and IP6T_SO_GET_INFO

func tableInfo(f Family, t Table) (info getInfo, err error) {
	domain, level := syscall.AF_INET, syscall.SOL_IP
	if f == IPv6 {
		domain, level = syscall.AF_INET6, syscall.SOL_IPV6
	}
	fd, err := syscall.Socket(domain, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.IPPROTO_RAW)
	if err != nil {
		return info, os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	copy(info.Name[:], t)
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), soGetInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return info, os.NewSyscallError("getsockopt", errno)
	}
	return info, nil
}

// Of linux/netfilter/nfnetlink.h and nf_tables.h.
const (
	netlinkNetfilter = 12
	subsysNFTables   = 10
	msgNewGen        = 15
	msgGetGen        = 16
	attrGenID        = 1
	nfgenLen         = 4
)

// generation returns the number that every change of nf_tables in this network
// namespace, by anybody, makes larger.
func generation() (uint32, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkNetfilter)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	timeout := syscall.Timeval{Sec: 1}
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout); err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	req := make([]byte, syscall.NLMSG_HDRLEN+nfgenLen)
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], subsysNFTables<<8|msgGetGen)
	binary.NativeEndian.PutUint16(req[6:], syscall.NLM_F_REQUEST)
	if err := syscall.Sendto(fd, req, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, os.Getpagesize())
	n, _, err := syscall.Recvfrom(fd, buf, 0)
	if err != nil {
		return 0, os.NewSyscallError("recvfrom", err)
	}
	return parseGeneration(buf[:n])
}

func parseGeneration(b []byte) (uint32, error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return 0, os.NewSyscallError("parse", err)
	}
	for _, m := range messages {
		if m.Header.Type != subsysNFTables<<8|msgNewGen || len(m.Data) < nfgenLen {
			continue
		}
		for attrs := m.Data[nfgenLen:]; len(attrs) >= syscall.SizeofRtAttr; {
			size := int(binary.NativeEndian.Uint16(attrs))
			if size < syscall.SizeofRtAttr || size > len(attrs) {
				break
			}
			if binary.NativeEndian.Uint16(attrs[2:]) == attrGenID && size == 8 {
				return binary.BigEndian.Uint32(attrs[4:]), nil
			}
			attrs = attrs[min(len(attrs), (size+3)&^3):]
		}
	}
	return 0, errors.New("the answer has no generation")
}
