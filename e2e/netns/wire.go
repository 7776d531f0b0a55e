//go:build linux

package netns

import (
	"fmt"
	"net/netip"
	"strings"
)

// What servers say. On TCP and SCTP each answer is a line
//
//	verb name server-address client-address text
//
// and on UDP the same with the payload, whatever it is, behind the newline.
// hello comes once at accept, echo for each line or datagram, and bye when the
// client has closed its half of the connection.
const (
	hello = "hello"
	echo  = "echo"
	bye   = "bye"
)

// maxDatagram is the largest payload that a probe can send over UDP or ICMP.
const maxDatagram = 8192

// maxHeader is more than enough for an answer without its text.
const maxHeader = 512

type answer struct {
	verb string
	from Identity
	seen netip.AddrPort
	text string
}

// line returns the answer as it is sent, with the newline.
func (a answer) line() string {
	return fmt.Sprintf("%s %s %s %s %s\n", a.verb, a.from.Name, a.from.Addr, a.seen, a.text)
}

func parseAnswer(line string) (answer, error) {
	fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 5)
	if len(fields) != 5 {
		return answer{}, fmt.Errorf("not one of our servers: it said %q", line)
	}
	server, err := netip.ParseAddrPort(fields[2])
	if err != nil {
		return answer{}, fmt.Errorf("server address in %q: %w", line, err)
	}
	seen, err := netip.ParseAddrPort(fields[3])
	if err != nil {
		return answer{}, fmt.Errorf("client address in %q: %w", line, err)
	}
	return answer{verb: fields[0], from: Identity{fields[1], server}, seen: seen, text: fields[4]}, nil
}
