//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// bulk is how much goes each way.
const bulk = 32 << 20

// patience is for all of it, on a busy machine.
const patience = 2 * time.Minute

// stream writes bulk bytes that follow from a seed, ends that half, and returns
// their sum.
func stream(c *net.TCPConn, seed byte) ([]byte, error) {
	sum := sha256.New()
	src := io.LimitReader(rand.NewChaCha8([32]byte{seed}), bulk)
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(c, sum)}, src, make([]byte, 100_000)); err != nil {
		return nil, fmt.Errorf("write: %w", err)
	}
	return sum.Sum(nil), c.CloseWrite()
}

// drink reads to the end and wants to have read what a seed stands for.
func drink(c *net.TCPConn, seed byte) error {
	sum, want := sha256.New(), sha256.New()
	n, err := io.Copy(sum, struct{ io.Reader }{c})
	if err != nil {
		return fmt.Errorf("read, after %d bytes: %w", n, err)
	}
	if _, err := io.CopyN(want, rand.NewChaCha8([32]byte{seed}), bulk); err != nil {
		return err
	}
	if n != bulk || !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("read %d bytes, want %d; the sums are equal: %t", n, bulk, bytes.Equal(sum.Sum(nil), want.Sum(nil)))
	}
	return nil
}

// speak is one side of a connection: it says its part and hears the other's, one
// after the other, or both at once.
func speak(c *net.TCPConn, mine, theirs byte, order string) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	say := func() error { _, err := stream(c, mine); return err }
	hear := func() error { return drink(c, theirs) }
	switch order {
	case "say, hear":
		return errors.Join(say(), hear())
	case "hear, say":
		return errors.Join(hear(), say())
	}
	var said, heard error
	var wg sync.WaitGroup
	wg.Go(func() { said = say() })
	wg.Go(func() { heard = hear() })
	wg.Wait()
	return errors.Join(said, heard)
}

// TestUserspaceBulk moves much both ways through the proxy: each side ends its half
// of the connection when it has said everything, and goes on to listen, or says
// nothing before the other has ended; or both speak at once.
func TestUserspaceBulk(t *testing.T) { eachUserspace(t, bulkBothWays) }

func bulkBothWays(t *testing.T, b *bed) {
	f := fixture{name: "bulk", ip: clusterIP(1), port: 80, target: 9000, nodePort: 30001, endpoints: podsOf(2)}
	server := b.place(t, pod(2))
	b.begin(t, f)
	const spliced = "fairlead_userspace_spliced_bytes_total"
	moved := []string{"fairlead_userspace_from_clients_bytes_total", "fairlead_userspace_to_clients_bytes_total", spliced}
	orders := [][2]string{{"say, hear", "hear, say"}, {"hear, say", "say, hear"}, {"at once", "at once"}}
	for i, x := range b.callers(t, f) {
		order := orders[i%len(orders)]
		l, err := server.Listen(netip.AddrPortFrom(pod(2).Like(x.dst.Addr()), 9000))
		if err != nil {
			t.Fatal(err)
		}
		before := b.metrics(t, moved...)
		start := time.Now()
		err = converse(x, l, order)
		t.Logf("from %s to %v, client %q: %v", x.from.Name(), x.dst, order[0], time.Since(start).Round(time.Millisecond))
		if err := errors.Join(err, l.Close()); err != nil {
			t.Errorf("from %s to %v, client %q: %v", x.from.Name(), x.dst, order[0], err)
		}
		after := b.metrics(t, moved...)
		for _, name := range moved[:2] {
			// Probes and the metrics of others are small.
			if got := after[name] - before[name]; got < bulk || got > bulk+64<<10 {
				t.Errorf("%s grew by %v, want %d", name, got, bulk)
			}
		}
		if got := after[spliced] - before[spliced]; got < bulk {
			t.Errorf("%v of %d bytes stayed in the kernel, want most of them", got, 2*bulk)
		}
	}
}

// converse connects and has both sides speak.
func converse(x target, l net.Listener, order [2]string) error {
	var client net.Conn
	err := x.from.Do(func() (err error) {
		var d net.Dialer
		d.SetMultipathTCP(false)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		client, err = d.DialContext(ctx, "tcp", x.dst.String())
		return err
	})
	if err != nil {
		return err
	}
	defer client.Close()
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	server, err := l.Accept()
	if err != nil {
		return err
	}
	defer server.Close()
	var serving error
	var wg sync.WaitGroup
	wg.Go(func() {
		if serving = speak(server.(*net.TCPConn), 2, 1, order[1]); serving != nil {
			serving = fmt.Errorf("server: %w", serving)
			server.Close()
		}
	})
	err = speak(client.(*net.TCPConn), 1, 2, order[0])
	if err != nil {
		client.Close()
	}
	wg.Wait()
	return errors.Join(err, serving)
}

// TestUserspaceDatagrams sends datagrams of all sizes, up to the largest that UDP
// has, and wants each back as it was, from where it was sent to.
func TestUserspaceDatagrams(t *testing.T) { eachUserspace(t, datagrams) }

func datagrams(t *testing.T, b *bed) {
	f := fixture{
		name: "big", ip: clusterIP(1), protocol: corev1.ProtocolUDP,
		port: 53, target: 5353, nodePort: 30001, endpoints: podsOf(2),
	}
	for _, a := range pod(2).Slice() {
		b.echo(t, b.place(t, pod(2)), netip.AddrPortFrom(a, f.target))
	}
	b.begin(t, f)
	for _, x := range b.callers(t, f) {
		largest := 65507 // what the length of an IP packet leaves
		switch {
		case x.dst.Addr().Is6() && x.from == b.N1.NS:
			// What the loopback device takes as one packet: in PREROUTING, the
			// kernel does not put fragments together of an IPv6 packet that
			// conntrack has seen in OUTPUT, and a fragment has no port.
			largest = 65488
		case x.dst.Addr().Is6():
			largest = 65527
		}
		for _, size := range []int{0, 1, 512, 1472, 1473, 9000, 32768, 65000, largest} {
			if err := bounce(x, size); err != nil {
				t.Errorf("%d bytes from %s to %v: %v", size, x.from.Name(), x.dst, err)
			}
		}
	}
	if n := b.metric(t, "fairlead_userspace_udp_dropped_total"); n != 0 {
		t.Errorf("%v datagrams were dropped, want none", n)
	}
}

// packetConn makes a socket in a namespace, at an address, or any for none.
func packetConn(ns *netns.NS, network string, at netip.AddrPort) (c *net.UDPConn, err error) {
	err = ns.Do(func() error {
		var local *net.UDPAddr
		if at.IsValid() {
			local = net.UDPAddrFromAddrPort(at)
		}
		c, err = net.ListenUDP(network, local)
		return err
	})
	return c, err
}

// echo sends every datagram back, until the end of the test.
func (b *bed) echo(t *testing.T, ns *netns.NS, at netip.AddrPort) {
	t.Helper()
	c, err := packetConn(ns, "udp", at)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	t.Cleanup(func() {
		c.Close()
		done.Wait()
	})
	done.Go(func() {
		for buf := make([]byte, 1<<16); ; {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				c.WriteToUDPAddrPort(buf[:n], from) // what is lost, the caller notices
			}
		}
	})
}

// bounce sends a datagram with a socket that takes answers of anybody, and again a
// few times if nothing comes: UDP may lose it where memory is short.
func bounce(x target, size int) error {
	network := "udp4"
	if x.dst.Addr().Is6() {
		network = "udp6"
	}
	c, err := packetConn(x.from, network, netip.AddrPort{})
	if err != nil {
		return err
	}
	defer c.Close()
	sent, got := make([]byte, size), make([]byte, 1<<16)
	rand.NewChaCha8([32]byte{byte(size)}).Read(sent)
	for try := 0; ; try++ {
		if _, err := c.WriteToUDPAddrPort(sent, x.dst); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		n, from, err := c.ReadFromUDPAddrPort(got)
		switch {
		case err != nil && try < 2:
			continue
		case err != nil:
			return err
		case netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != x.dst:
			return fmt.Errorf("answered by %v", from)
		case !bytes.Equal(got[:n], sent):
			return fmt.Errorf("%d bytes came back, or others", n)
		}
		return nil
	}
}
