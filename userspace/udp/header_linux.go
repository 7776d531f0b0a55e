package udp

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	headerSize = 8 // of UDP (RFC 768)
	checksumAt = 6 // its offset there
)

// putHeader writes the UDP header of data. The checksum of IPv6 is left to the
// kernel, see IPV6_CHECKSUM; that of IPv4 it does not make for raw sockets.
func putHeader(h *[headerSize]byte, data []byte, from, to netip.AddrPort) {
	n := uint16(headerSize + len(data))
	binary.BigEndian.PutUint16(h[0:], from.Port())
	binary.BigEndian.PutUint16(h[2:], to.Port())
	binary.BigEndian.PutUint16(h[4:], n)
	binary.BigEndian.PutUint16(h[checksumAt:], 0)
	if !from.Addr().Is4() {
		return
	}
	src, dst := from.Addr().As4(), to.Addr().As4()
	sum := ones(0, src[:])
	sum = ones(sum, dst[:])
	sum = ones(sum, []byte{0, unix.IPPROTO_UDP, byte(n >> 8), byte(n)})
	sum = ones(sum, h[:])
	check := ^fold(ones(sum, data))
	if check == 0 {
		check = 0xffff // zero would say that there is none
	}
	binary.BigEndian.PutUint16(h[checksumAt:], check)
}

// ones adds b to a sum in ones' complement of 64-bit words, which fold makes one
// of 16-bit words (RFC 1071). All parts but the last have an even length.
func ones(sum uint64, b []byte) uint64 {
	var carry uint64
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	var last [8]byte
	copy(last[:], b)
	sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(last[:]), carry)
	return sum + carry
}

func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
