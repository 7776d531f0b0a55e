package udp

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// window asks at to n times, with up to w questions under way at a time.
func window(b *testing.B, c *net.UDPConn, at netip.AddrPort, n, w, size int) {
	b.Helper()
	buf, data := make([]byte, 1<<16), make([]byte, size)
	lost := 0
	for sent, got := 0, 0; got < n; got++ {
		for ; sent < n && sent-got < w; sent++ {
			if _, err := c.WriteToUDPAddrPort(data, at); err != nil {
				b.Fatal(err)
			}
		}
		if got%w == 0 {
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		}
		if _, _, err := c.ReadFromUDPAddrPort(buf); err != nil {
			lost++
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		}
	}
	if lost > 0 {
		b.ReportMetric(float64(lost), "lost")
	}
}

// BenchmarkEcho is the time for one question and its answer: direct is without the
// proxy, for what the sockets at both ends cost.
func BenchmarkEcho(b *testing.B) {
	for _, size := range []int{64, 1400, 32000} {
		for _, w := range []int{1, 16} {
			at, _ := echo(b, local(false), "")
			c := socket(b, local(false))
			_ = c.SetReadBuffer(4 << 20)
			b.Run(fmt.Sprintf("direct/%d/%d", size, w), func(b *testing.B) {
				b.SetBytes(int64(size))
				window(b, c, at, b.N, w, size)
			})
			b.Run(fmt.Sprintf("proxy/%d/%d", size, w), func(b *testing.B) {
				e := serve(b, Config{}, &desk{choose: to(at)})
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				window(b, c, e.Addrs()[0], b.N, w, size)
			})
		}
	}
}

// BenchmarkSession is the time to begin a session, with its first question and
// answer, and to end it.
func BenchmarkSession(b *testing.B) {
	at, _ := echo(b, local(false), "")
	e := serve(b, Config{}, &desk{choose: to(at)})
	c := socket(b, local(false))
	b.ReportAllocs()
	for b.Loop() {
		window(b, c, e.Addrs()[0], 1, 1, 64)
		e.Retarget(at, nil)
	}
}
