package kernel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"

	"github.com/fairlead-project/fairlead/service"
)

// parseProc reads the text of /proc/net/ip_vs and returns the destinations of
// every virtual server by address, in the order of the file. It skips servers
// on firewall marks, and those of protocols that no Service has.
//
// The file (ip_vs_info_seq_show in the kernel) has a header of three lines, then
// per server one line
//
//	TCP  0A600001:01BB rr persistent 1080000 FFFFFFFF
//	UDP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0035 rr
//	FWM  00000007 wrr ops
//
// followed by its destinations with forwarding method, weight, active and
// inactive connections
//
//	-> 0AF40102:1F90      Masq    1      0          0
//
// Addresses of IPv4 and all ports are hexadecimal in the order of reading. What
// stands behind the key is not used: the timeout is in ticks, whose length is
// not known here, flags of the scheduler are missing, and those of IPv6 differ
// between kernels.
//
// The file is read a line at a time: with 100,000 destinations it has six megabytes.
func parseProc(r io.Reader) (map[ServerKey][]Dest, error) {
	p := procParser{servers: map[ServerKey][]Dest{}}
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if bad := p.line(line); bad != nil {
			return nil, fmt.Errorf("line %q: %w", bytes.TrimSpace(line), bad)
		}
		if err != nil {
			p.end()
			return p.servers, nil
		}
	}
}

// A procParser has read a part of the file.
type procParser struct {
	servers map[ServerKey][]Dest
	key     ServerKey // of the last server
	known   bool      // whether it is one that we know
	list    []Dest    // its destinations so far
}

// line reads one more line.
func (p *procParser) line(line []byte) error {
	var fields [6][]byte
	n := split(line, &fields)
	if n == 0 {
		return nil
	}
	switch name := string(fields[0]); {
	case name == "->" && n == 6 && string(fields[5]) != "InActConn":
		if !p.known {
			return nil
		}
		d, err := parseProcDest(&fields)
		if err != nil {
			return err
		}
		p.list = append(p.list, d)
	case name == "TCP" || name == "UDP" || name == "SCTP":
		addr, err := parseProcAddr(fields[1])
		if err != nil {
			return err
		}
		p.end()
		p.key, p.known = ServerKey{Addr: addr, Protocol: procProtocol(name)}, true
	default: // the header, a firewall mark, a protocol of no Service
		p.end()
	}
	return nil
}

// end notes the last server. One shows twice if others were removed while it was read.
func (p *procParser) end() {
	if p.known {
		p.servers[p.key] = append([]Dest(nil), p.list...)
	}
	p.known, p.list = false, p.list[:0]
}

// split cuts a line at blanks into fields, as far as they go, and returns how
// many there were.
func split(line []byte, fields *[6][]byte) int {
	n := 0
	for f := range bytes.FieldsSeq(line) {
		if n == len(fields) {
			break
		}
		fields[n] = f
		n++
	}
	return n
}

func procProtocol(name string) service.Protocol {
	switch name {
	case "TCP":
		return service.TCP
	case "UDP":
		return service.UDP
	default:
		return service.SCTP
	}
}

// parseProcDest reads the fields of a line of a destination.
func parseProcDest(fields *[6][]byte) (Dest, error) {
	addr, err := parseProcAddr(fields[1])
	if err != nil {
		return Dest{}, err
	}
	var numbers [3]uint32
	for i := range numbers {
		if numbers[i], err = parseProcCount(fields[3+i]); err != nil {
			return Dest{}, err
		}
	}
	return Dest{
		Addr:   addr,
		Weight: numbers[0],
		Conns:  Conns{Active: numbers[1], Inactive: numbers[2]},
		Other:  string(fields[2]) != "Masq",
	}, nil
}

// parseProcCount reads a decimal that the kernel prints as signed. Counters can
// be read in the middle of an update, so one below zero counts as zero.
func parseProcCount(text []byte) (uint32, error) {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return 0, err
	}
	if n > math.MaxUint32 || n < math.MinInt32 {
		return 0, fmt.Errorf("%d is out of range", n)
	}
	return uint32(max(n, 0)), nil
}

// parseProcAddr reads "0A600001:01BB" or "[fd00:…]:01BB".
func parseProcAddr(text []byte) (netip.AddrPort, error) {
	colon := bytes.LastIndexByte(text, ':')
	if colon < 0 {
		return netip.AddrPort{}, fmt.Errorf("%q has no port", text)
	}
	var raw [2]byte
	if n, err := hex.Decode(raw[:], firstBytes(text[colon+1:], 5)); err != nil || n != 2 {
		return netip.AddrPort{}, fmt.Errorf("%q is no port", text[colon+1:])
	}
	port := binary.BigEndian.Uint16(raw[:])
	host := text[:colon]
	if len(host) == 8 {
		var ip [4]byte
		if _, err := hex.Decode(ip[:], host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q is no address", host)
		}
		return netip.AddrPortFrom(netip.AddrFrom4(ip), port), nil
	}
	if len(host) < 2 || host[0] != '[' || host[len(host)-1] != ']' {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", host)
	}
	addr, err := netip.ParseAddr(string(host[1 : len(host)-1]))
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", host)
	}
	return netip.AddrPortFrom(addr, port), nil
}

func firstBytes(b []byte, n int) []byte { return b[:min(len(b), n)] }
