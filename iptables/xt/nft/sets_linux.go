package nft

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// What SO_IP_SET is asked (linux/netfilter/ipset/ip_set.h).
const (
	soIPSet      = 83
	opVersion    = 0x100
	opIndexOf    = 0x6 // IP_SET_OP_GET_BYNAME
	maxSetName   = 31
	noSuchSet    = 0xffff
	setQuestion  = 40 // struct ip_set_req_get_set
	setNameStart = 8
)

// SetIndex returns the index that the kernel has given to an ipset in the network
// namespace of the caller, which is what rules have for its name. It implements
// [abi.Sets]. The error is ENOENT if there is no such set.
func SetIndex(name string) (uint16, error) {
	if len(name) > maxSetName {
		return 0, fmt.Errorf("a name of %d bytes: %w", len(name), syscall.ENAMETOOLONG)
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.IPPROTO_RAW)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	version := make([]byte, setNameStart)
	binary.NativeEndian.PutUint32(version, opVersion)
	if err := askSets(fd, version); err != nil {
		return 0, fmt.Errorf("version of ipset: %w", err)
	}
	question := make([]byte, setQuestion)
	binary.NativeEndian.PutUint32(question, opIndexOf)
	copy(question[4:setNameStart], version[4:])
	copy(question[setNameStart:], name)
	if err := askSets(fd, question); err != nil {
		return 0, err
	}
	index := binary.NativeEndian.Uint16(question[setNameStart:])
	if index == noSuchSet {
		return 0, syscall.ENOENT
	}
	return index, nil
}

// askSets has the kernel put its answer in the place of the question.
func askSets(fd int, question []byte) error {
	size := uint32(len(question))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(fd), syscall.SOL_IP, soIPSet,
		uintptr(unsafe.Pointer(&question[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}
