package certs

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// recorded is a connection whose other end is a byte slice.
type recorded struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (r *recorded) Read(b []byte) (int, error)       { return r.in.Read(b) }
func (r *recorded) Write(b []byte) (int, error)      { return r.out.Write(b) }
func (r *recorded) Close() error                     { return nil }
func (r *recorded) SetDeadline(time.Time) error      { return nil }
func (r *recorded) SetReadDeadline(time.Time) error  { return nil }
func (r *recorded) SetWriteDeadline(time.Time) error { return nil }

// clientHello returns the record that a client of crypto/tls begins with.
func clientHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	r := &recorded{in: bytes.NewReader(nil)}
	if err := tls.Client(r, config).Handshake(); err == nil {
		t.Fatal("a handshake with nobody")
	}
	return r.out.Bytes()
}

func helloFor(t testing.TB, name string) []byte {
	t.Helper()
	return clientHello(t, &tls.Config{ServerName: name, InsecureSkipVerify: true})
}

// split returns the handshake message of one record in records of n bytes.
func split(record []byte, n int) []byte {
	var out []byte
	for body := record[5:]; len(body) > 0; {
		k := min(n, len(body))
		out = append(out, 22, 3, 1, byte(k>>8), byte(k))
		out = append(out, body[:k]...)
		body = body[k:]
	}
	return out
}

// hello returns a ClientHello with just these extensions.
func hello(extensions []byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	if extensions != nil {
		body = append(body, byte(len(extensions)>>8), byte(len(extensions)))
		body = append(body, extensions...)
	}
	message := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{22, 3, 1, byte(len(message) >> 8), byte(len(message))}, message...)
}

// sni returns the extension server_name with a list of one name.
func sni(name string) []byte {
	n := len(name)
	out := []byte{0, 0, byte((n + 5) >> 8), byte(n + 5), byte((n + 3) >> 8), byte(n + 3), 0, byte(n >> 8), byte(n)}
	return append(out, name...)
}

func TestPeekSNI(t *testing.T) {
	good := helloFor(t, "Shop.Example.COM")
	two := append([]byte{0, 0, 0, 10, 0, 8}, 0, 0, 1, 'a', 0, 0, 1, 'b')
	edit := func(i int, v byte) []byte {
		b := bytes.Clone(good)
		b[i] = v
		return b
	}
	for _, c := range []struct {
		name string
		in   []byte
		want string
		err  string
	}{
		{"of a client", good, "shop.example.com", ""},
		{"with data behind", append(bytes.Clone(good), "more"...), "shop.example.com", ""},
		{"in small records", split(good, 7), "shop.example.com", ""},
		{"in records of a byte", split(good, 1), "shop.example.com", ""},
		{"without a name", clientHello(t, &tls.Config{InsecureSkipVerify: true}), "", ""},
		{"TLS 1.2", clientHello(t, &tls.Config{ServerName: "a.b", MaxVersion: tls.VersionTLS12}), "a.b", ""},
		{"no extensions at all", hello(nil), "", ""},
		{"no extension", hello([]byte{}), "", ""},
		{"a dot at the end", hello(sni("a.example.")), "a.example", ""},
		{"underscore", hello(sni("_x.a.example")), "_x.a.example", ""},
		{"an address", hello(sni("10.0.0.1")), "", ""},
		{"an IPv6 address", hello(sni("fd00::1")), "", "no host name"},
		{"two names", hello(two), "", "not one host name"},
		{"twice", hello(append(sni("a.example"), sni("b.example")...)), "", "extension 0 twice"},
		{"empty name", hello(sni("")), "", "no host name"},
		{"empty label", hello(sni("a..b")), "", "no host name"},
		{"only a dot", hello(sni(".")), "", "no host name"},
		{"NUL", hello(sni("a\x00.b")), "", "no host name"},
		{"line break", hello(sni("a\r\nb")), "", "no host name"},
		{"not ASCII", hello(sni("ä.example")), "", "no host name"},
		{"wildcard", hello(sni("*.example")), "", "no host name"},
		{"hyphen first", hello(sni("-a.example")), "", "no host name"},
		{"long", hello(sni(strings.Repeat("a.", 130))), "", "no host name"},
		{"long label", hello(sni(strings.Repeat("a", 64))), "", "no host name"},
		{"name longer than its list", hello([]byte{0, 0, 0, 5, 0, 3, 0, 0, 9}), "", "server_name"},
		{"empty server_name", hello([]byte{0, 0, 0, 0}), "", "server_name"},
		{"extension cut short", hello([]byte{0, 5, 0, 9, 1}), "", "cut short"},
		{"extension without length", hello([]byte{0, 5, 0}), "", "cut short"},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), "", "not a TLS"},
		{"an alert", []byte{21, 3, 1, 0, 2, 1, 0}, "", "not a TLS"},
		{"SSL 2", []byte{0x80, 0x2e, 1, 0, 2}, "", "not a TLS"},
		{"a record of nothing", append([]byte{22, 3, 1, 0, 0}, good...), "", "record of 0 bytes"},
		{"a record too long", []byte{22, 3, 1, 0xff, 0xff}, "", "record of 65535 bytes"},
		{"a message too long", append([]byte{22, 3, 1, 0, 4}, 1, 1, 0, 0), "", "message of type 1 with 65536 bytes"},
		{"a ServerHello", edit(5, 2), "", "message of type 2"},
		{"legacy version", edit(9, 9), "", "legacy_version"},
		{"something in the record behind it", append([]byte{22, 3, 1, 0, 9}, 1, 0, 0, 1, 3, 1, 1, 1, 1), "", "bytes behind it"},
		{"session too long", func() []byte {
			b := hello([]byte{})
			b[5+4+34] = 200
			return b
		}(), "", "cut short"},
		{"nothing", nil, "", "EOF"},
		{"cut off", good[:100], "", "EOF"},
	} {
		conn := &recorded{in: bytes.NewReader(c.in)}
		got, replay, err := PeekSNI(conn)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v; want %q, %q", c.name, got, err, c.want, c.err)
		}
		if errors.Is(err, ErrNotTLS) == (strings.Contains(c.err, "EOF") || c.err == "") {
			t.Errorf("%s: whether it is ErrNotTLS: %v", c.name, err)
		}
		back, err := io.ReadAll(replay)
		if err != nil || !bytes.Equal(back, c.in) {
			t.Errorf("%s: replay yields %d bytes, %v; want all %d", c.name, len(back), err, len(c.in))
		}
	}
}

// FuzzPeekSNI: no byte is lost, and what crypto/tls reads as a name we read as the same.
func FuzzPeekSNI(f *testing.F) {
	good := helloFor(f, "shop.example.com")
	f.Add(good)
	f.Add(split(good, 100))
	f.Add(hello(sni("a.example.")))
	f.Add(hello(append(sni("a"), sni("b")...)))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		conn := &recorded{in: bytes.NewReader(in)}
		name, replay, err := PeekSNI(conn)
		if err != nil && name != "" {
			t.Errorf("a name with an error: %q, %v", name, err)
		}
		if name != "" && (!hostName(name) || name != strings.ToLower(name)) {
			t.Errorf("%q is no name", name)
		}
		var back bytes.Buffer
		if _, err := replay.(io.WriterTo).WriteTo(&back); err != nil || !bytes.Equal(back.Bytes(), in) {
			t.Errorf("replay yields %d bytes, want %d; %v", back.Len(), len(in), err)
		}
		if err != nil {
			return
		}
		theirs, seen := "", false
		server := tls.Server(&recorded{in: bytes.NewReader(in)}, &tls.Config{
			MinVersion: tls.VersionTLS10,
			GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				theirs, seen = h.ServerName, true
				return nil, errors.New("that was all")
			},
		})
		_ = server.Handshake()
		if seen && serverName(theirs) != name {
			t.Errorf("crypto/tls reads %q, we %q", theirs, name)
		}
	})
}

// TestPassthrough sends a connection through PeekSNI to a server that ends its TLS.
func TestPassthrough(t *testing.T) {
	table := NewTable()
	table.Set(nil, Default{Pairs: []*Pair{newPair(t, "ecdsa", "a.example")}})
	limiter := NewLimiter(0, 0)
	config, _ := ServerConfig(Settings{}, table)
	addr, stop := echo(t, config, limiter)
	defer stop()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var relay sync.WaitGroup
	relay.Go(func() {
		conn, err := front.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		name, replay, err := PeekSNI(conn)
		if name != "a.example" || err != nil {
			t.Errorf("PeekSNI: %q, %v", name, err)
		}
		back, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer back.Close()
		relay.Go(func() { _, _ = io.Copy(replay, back) })
		_, _ = io.Copy(back, replay)
	})
	c, err := tls.Dial("tcp", front.Addr().String(), &tls.Config{ServerName: "a.example", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := ping(c); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	front.Close()
	relay.Wait()
}
