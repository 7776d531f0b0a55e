package std

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// FuzzProxyHeader has trusted peers send anything where a PROXY header has to be: it is one and what follows is left as it is, or
// the connection is refused.
func FuzzProxyHeader(f *testing.F) {
	v2 := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x01\xac\x12\x00\x0b\x00\x01\x00\x50")
	f.Add([]byte("PROXY TCP4 198.51.100.1 172.18.0.11 1 80\r\n"), []byte("GET / HTTP/1.1\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"), []byte("x"))
	f.Add([]byte("PROXY TCP6 ::1 ::1 99999 80\r\n"), []byte(""))
	f.Add(v2, []byte("rest"))
	f.Add(v2[:20], []byte(""))
	settings := &Settings{Proxy: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, ProxyTimeout: 100 * time.Millisecond}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, header, rest []byte) {
		if len(header)+len(rest) > 32<<10 {
			return // has to fit between the two
		}
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		sent := append(append([]byte{}, header...), rest...)
		if _, err := client.Write(sent); err != nil {
			t.Fatal(err)
		}
		if err := client.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := readProxy(settings, conn)
		if err != nil {
			return
		}
		if a := addrPort(got.RemoteAddr()); !a.IsValid() {
			t.Errorf("%q: the client is %v", header, got.RemoteAddr())
		}
		left, err := io.ReadAll(got)
		if err != nil || !bytes.HasSuffix(sent, left) || len(left) == len(sent) {
			t.Errorf("after %q: %q is left of %q, %v", header, left, sent, err)
		}
	})
}
