//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// web is the TCP Service of these tests, on pods that listen at port 8080.
func web(i int, ms ...int) fixture {
	return fixture{
		name: fmt.Sprintf("web-%d", i), ip: clusterIP(i), port: 80, target: 8080,
		nodePort: uint16(30000 + i), endpoints: podsOf(ms...),
	}
}

// TestFaultTCP keeps connections open while everything around them changes.
func TestFaultTCP(t *testing.T) { eachVariant(t, faultTCP) }

func faultTCP(t *testing.T, b *bed) {
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4))
	b.begin(t, web(1, 2, 3, 4))
	conns := b.dialAll(t, 20)
	half := b.halfClosed(t)
	talk := func(when string) {
		t.Helper()
		for i, c := range conns {
			if idle := i%2 == 1; idle && when != "at the end" {
				continue
			}
			if r := c.Exchange(t.Context(), when); r.Class != netns.Reply {
				t.Errorf("%s: connection %d: %v", when, i, r)
			}
		}
	}
	const n = 500
	mine := web(1, 2, 3, 4)
	for generation := range 3 {
		b.apply(t, append(others(n, generation), mine)...)
		talk(fmt.Sprintf("with generation %d of %d others", generation, n))
	}
	b.apply(t, mine)
	talk("when the others are gone")
	b.apply(t, web(1, 2))
	talk("when two endpoints have gone")
	b.apply(t, web(1))
	talk("when all endpoints have gone")
	b.apply(t)
	talk("when the Service has gone")
	talk("at the end")
	for _, h := range half {
		h.finish(t)
	}
	for i, c := range conns {
		if r := c.Finish(t.Context()); r.Class != netns.Reply {
			t.Errorf("end of connection %d: %v", i, r)
		}
	}
}

// begin puts the first objects, starts fairlead and waits.
func (b *bed) begin(t *testing.T, fixtures ...fixture) {
	t.Helper()
	b.put(t, fixtures...)
	b.start(t)
	b.await(t)
}

// dialAll opens n connections to the Service, from everywhere and in both
// families.
func (b *bed) dialAll(t *testing.T, n int) []*netns.Conn {
	t.Helper()
	froms := []*netns.NS{b.place(t, pod(9)), b.N1.NS, b.Client}
	var out []*netns.Conn
	for i := range n {
		at := netip.AddrPortFrom(clusterIP(1).Slice()[i%2], 80)
		if i%5 == 4 { // from outside, by node port
			at = netip.AddrPortFrom(netns.NodeAddr(1).Slice()[i%2], 30001)
		}
		from := froms[i%3]
		if i%5 == 4 {
			from = b.Client
		}
		// A port that the kernel gives nobody: IPVS knows an answer by the endpoint and
		// the client only, and takes it for one of the younger of two connections.
		c, r := from.Dial(t.Context(), netns.Request{Proto: netns.TCP, Dst: at, SrcPort: uint16(20000 + i), Timeout: 5 * time.Second})
		if c == nil {
			t.Fatalf("connection %d, from %s to %v: %v", i, from.Name(), at, r)
		}
		t.Cleanup(func() { c.Close() })
		out = append(out, c)
	}
	return out
}

// A halfConn is a connection whose client has closed its half, while the server
// still has something to say.
type halfConn struct{ client, server net.Conn }

// halfClosed opens one such connection per family, by way of a Service of its
// own pod.
func (b *bed) halfClosed(t *testing.T) []halfConn {
	t.Helper()
	server := b.place(t, pod(5))
	f := fixture{name: "half", ip: clusterIP(2), port: 80, target: 9090, endpoints: podsOf(5)}
	b.apply(t, web(1, 2, 3, 4), f)
	var out []halfConn
	for i, a := range pod(5).Slice() {
		l, err := server.Listen(netip.AddrPortFrom(a, 9090))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		var h halfConn
		err = b.Client.Do(func() error {
			var d net.Dialer
			h.client, err = d.DialContext(context.Background(), "tcp", netip.AddrPortFrom(f.ip.Slice()[i], 80).String())
			return err
		})
		if err == nil {
			h.server, err = l.Accept()
		}
		if err == nil {
			err = h.client.(*net.TCPConn).CloseWrite()
		}
		if err == nil {
			_, err = io.ReadAll(h.server)
		}
		if err != nil {
			t.Fatalf("half-closed connection to %v: %v", f.ip.Slice()[i], err)
		}
		t.Cleanup(func() { h.client.Close(); h.server.Close() })
		out = append(out, h)
	}
	return out
}

// finish has the server speak its last words.
func (h halfConn) finish(t *testing.T) {
	t.Helper()
	const words = "as I was saying"
	_, err := io.WriteString(h.server, words)
	if err == nil {
		err = h.server.Close()
	}
	if err != nil {
		t.Errorf("half-closed connection: server: %v", err)
	}
	h.client.SetReadDeadline(time.Now().Add(5 * time.Second))
	got, err := io.ReadAll(h.client)
	if err != nil || string(got) != words {
		t.Errorf("half-closed connection: client got %q, %v; want %q", got, err, words)
	}
}
