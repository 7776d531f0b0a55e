package udp

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// slowSum is RFC 1071 word by word.
func slowSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		if sum += word; sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// TestHeader checks what receivers check: the sum over all is 0xffff.
func TestHeader(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for n := range 300 {
		data := make([]byte, n%100)
		for i := range data {
			data[i] = byte(r.Uint32())
			if n > 200 {
				data[i] = 0xff
			}
		}
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(n), 255}), uint16(r.Uint32()))
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), uint16(r.Uint32()))
		var h [headerSize]byte
		putHeader(&h, data, from, to)
		src, dst := from.Addr().As4(), to.Addr().As4()
		all := append(append(src[:], dst[:]...), 0, unix.IPPROTO_UDP, 0, byte(headerSize+len(data)))
		all = append(append(all, h[:]...), data...)
		if got := slowSum(all); got != 0xffff {
			t.Errorf("%d bytes: sum %#x, want 0xffff", len(data), got)
		}
		if binary.BigEndian.Uint16(h[checksumAt:]) == 0 {
			t.Error("no checksum")
		}
	}
}
