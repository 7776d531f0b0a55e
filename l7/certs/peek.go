package certs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// ErrNotTLS is what PeekSNI returns for bytes that do not begin a TLS connection.
var ErrNotTLS = errors.New("not a TLS ClientHello")

// What is accepted of a ClientHello. Those of browsers have some 2 KiB.
const (
	maxHello  = 16 << 10
	maxRecord = 16 << 10
	helloType = 1
)

// PeekSNI reads the ClientHello at the beginning of conn and returns the server name in
// it, in lower case and without a dot at the end, or "" if there is none or it is an
// address. Replay is conn with what was read put back in front; it is returned with every
// error too. Anything not in the form of RFC 8446, 4.1.2, is refused, and so is
// a ClientHello of more than 16 KiB. The caller sets the deadline.
func PeekSNI(conn net.Conn) (sni string, replay net.Conn, err error) {
	seen := &Replay{Conn: conn}
	hello, err := readHello(conn, &seen.head)
	if err != nil {
		return "", seen, fmt.Errorf("read the ClientHello: %w", err)
	}
	name, err := parseHello(hello)
	if err != nil {
		return "", seen, fmt.Errorf("%w: %w", ErrNotTLS, err)
	}
	return serverName(name), seen, nil
}

// readHello returns the body of the first handshake message of r, which must be a
// ClientHello, and appends all it reads to seen.
func readHello(r io.Reader, seen *[]byte) ([]byte, error) {
	var message []byte
	need := 4
	for len(message) < need {
		record, err := readRecord(r, seen)
		if err != nil {
			return nil, err
		}
		message = append(message, record...)
		if len(message) < 4 {
			continue
		}
		n := int(message[1])<<16 | int(message[2])<<8 | int(message[3])
		if message[0] != helloType || n > maxHello {
			return nil, fmt.Errorf("%w: message of type %d with %d bytes", ErrNotTLS, message[0], n)
		}
		need = 4 + n
	}
	if len(message) > need {
		return nil, fmt.Errorf("%w: %d bytes behind it in its record", ErrNotTLS, len(message)-need)
	}
	return message[4:], nil
}

// readRecord returns the content of one record of handshake messages.
func readRecord(r io.Reader, seen *[]byte) ([]byte, error) {
	head, err := take(r, 5, seen)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[3:]))
	switch {
	case head[0] != 22 || head[1] != 3 || head[2] > 4:
		return nil, fmt.Errorf("%w: begins with % x", ErrNotTLS, head)
	case n == 0 || n > maxRecord:
		return nil, fmt.Errorf("%w: record of %d bytes", ErrNotTLS, n)
	case len(*seen)+n > 2*maxHello:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrNotTLS, 2*maxHello)
	}
	return take(r, n, seen)
}

// take reads n bytes and appends them to seen, even if it gets fewer.
func take(r io.Reader, n int, seen *[]byte) ([]byte, error) {
	from := len(*seen)
	*seen = append(*seen, make([]byte, n)...)
	got, err := io.ReadFull(r, (*seen)[from:])
	*seen = (*seen)[:from+got]
	return (*seen)[from:], err
}

// A parser takes a message apart from its front. After the first thing that does not fit it
// is bad and yields nothing any more.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) bytes(n int) []byte {
	if p.bad || n > len(p.rest) {
		p.bad = true
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) number(size int) int {
	n := 0
	for _, b := range p.bytes(size) {
		n = n<<8 | int(b)
	}
	return n
}

// vector takes what is preceded by its length in size bytes.
func (p *parser) vector(size int) *parser {
	rest := p.bytes(p.number(size))
	return &parser{rest: rest, bad: p.bad}
}

func (p *parser) empty() bool { return p.bad || len(p.rest) == 0 }

// parseHello returns the server name in the body of a ClientHello, or "".
func parseHello(hello []byte) (string, error) {
	p := &parser{rest: hello}
	if v := p.number(2); v < 0x0301 || v > 0x0303 {
		return "", fmt.Errorf("legacy_version %#04x", v)
	}
	p.bytes(32)
	session := p.vector(1)
	suites := p.vector(2)
	compression := p.vector(1)
	switch {
	case p.bad:
		return "", errors.New("cut short")
	case len(session.rest) > 32:
		return "", fmt.Errorf("session of %d bytes", len(session.rest))
	case len(suites.rest) == 0 || len(suites.rest)%2 != 0:
		return "", fmt.Errorf("cipher suites of %d bytes", len(suites.rest))
	case len(compression.rest) == 0:
		return "", errors.New("no compression methods")
	case len(p.rest) == 0:
		return "", nil // TLS 1.2 without extensions
	}
	extensions := p.vector(2)
	if p.bad || !p.empty() {
		return "", errors.New("extensions are cut short, or something is behind them")
	}
	return parseExtensions(extensions)
}

func parseExtensions(p *parser) (string, error) {
	seen := map[int]bool{}
	name := ""
	for !p.empty() {
		kind := p.number(2)
		data := p.vector(2)
		if p.bad {
			return "", errors.New("an extension is cut short")
		}
		if seen[kind] {
			return "", fmt.Errorf("extension %d twice", kind)
		}
		seen[kind] = true
		if kind == 0 {
			var err error
			if name, err = parseServerName(data); err != nil {
				return "", err
			}
		}
	}
	return name, nil
}

// parseServerName returns the one name of a server_name extension (RFC 6066, 3).
func parseServerName(p *parser) (string, error) {
	list := p.vector(2)
	if p.bad || !p.empty() || list.empty() {
		return "", errors.New("server_name is empty or of the wrong length")
	}
	kind := list.number(1)
	name := list.vector(2)
	if list.bad || !list.empty() || kind != 0 {
		return "", errors.New("server_name is not one host name")
	}
	s := string(name.rest)
	if !hostName(strings.TrimSuffix(s, ".")) {
		return "", fmt.Errorf("server_name %q is no host name", s)
	}
	return s, nil
}

// hostName reports whether s is a DNS name; underscores occur. Colons do not, so neither do IPv6
// addresses.
func hostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			switch c := label[i]; {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return false
			}
		}
	}
	return true
}

// A Replay is a connection from which some bytes have been read that its next
// reader gets once more. As with any connection, one goroutine reads at a time.
type Replay struct {
	net.Conn
	head []byte
}

// Read reads what was put back, then the connection.
func (r *Replay) Read(b []byte) (int, error) {
	if len(r.head) == 0 {
		return r.Conn.Read(b)
	}
	n := copy(b, r.head)
	if r.head = r.head[n:]; len(r.head) == 0 {
		r.head = nil
	}
	return n, nil
}

// WriteTo writes all that Read would return to w. What comes after the bytes put
// back is copied from the connection itself, which between TCP connections the kernel
// does alone.
func (r *Replay) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(r.head)
	r.head = r.head[n:]
	if err != nil {
		return int64(n), err
	}
	m, err := io.Copy(w, r.Conn)
	return int64(n) + m, err
}

// CloseWrite ends our direction of the connection, if it can be ended alone.
func (r *Replay) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Unwrap returns the connection underneath. What was put back and not read yet is not in it.
func (r *Replay) Unwrap() net.Conn { return r.Conn }
