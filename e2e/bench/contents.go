//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// procIPVS lists virtual servers and their destinations, those of the network
// namespace of the thread.
const procIPVS = "/proc/thread-self/net/ip_vs"

// haveIPVS says why the running kernel has no IPVS, or nil if it has.
func haveIPVS() error {
	if _, err := os.Stat(procIPVS); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if out, err := exec.Command("modprobe", "ip_vs").CombinedOutput(); err != nil {
		return fmt.Errorf("no IPVS: %w: %s", err, strings.TrimSpace(string(out)))
	}
	_, err := os.Stat(procIPVS)
	return err
}

// contents is how much of what the Services need is in IPVS.
type contents struct {
	servers  int // virtual servers on addresses of Services
	dests    int // their destinations that take connections
	draining int // and those that take none
}

func (s spec) contents() contents {
	return contents{servers: s.total(), dests: s.Services*s.Endpoints + s.Probes}
}

func (c contents) String() string {
	return fmt.Sprintf("%d virtual servers and %d destinations", c.servers, c.dests)
}

// covers reports whether c is no less than o.
func (c contents) covers(o contents) bool { return c.servers >= o.servers && c.dests >= o.dests }

// contents reads all of IPVS, which takes time by the number of destinations.
func (n *network) contents() (contents, error) {
	var c contents
	err := n.node.Do(func() error {
		f, err := os.Open(procIPVS)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // no module, no servers
		}
		if err != nil {
			return err
		}
		defer f.Close()
		c, err = parseContents(f)
		return err
	})
	return c, err
}

// parseContents reads the format of /proc/net/ip_vs:
//
//	Prot LocalAddress:Port Scheduler Flags
//	  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
//	TCP  0A60000A:0050 rr
//	  -> 0AF40202:1F90      Masq    1      0          0
func parseContents(r io.Reader) (contents, error) {
	var c contents
	ours := false
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 3 && fields[0] == "TCP":
			ours = ofService(fields[1])
			if ours {
				c.servers++
			}
		case len(fields) >= 4 && fields[0] == "->":
			switch {
			case !ours:
			case fields[3] == "0":
				c.draining++
			default:
				c.dests++
			}
		default:
			ours = false
		}
	}
	return c, lines.Err()
}

// ofService reports whether an address in hexadecimal digits is a Service's.
func ofService(hexAddrPort string) bool {
	addr, _, _ := strings.Cut(hexAddrPort, ":")
	b, err := hex.DecodeString(addr)
	return err == nil && len(b) == 4 && b[0] == 10 && b[1] == 96
}

// virtualServers asks for the number of all virtual servers, which takes no time.
func (n *network) virtualServers() (int, error) {
	const (
		getInfo = 64 + 1024 + 64 + 1 // IP_VS_SO_GET_INFO of linux/ip_vs.h
		ip      = 0
	)
	number := 0
	err := n.node.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// The answer is three integers, the last of which is the number. This
		// type has the same shape.
		info, err := unix.GetsockoptIPMreqn(fd, ip, getInfo)
		if err == nil {
			number = int(info.Ifindex)
		}
		if errors.Is(err, unix.ENOPROTOOPT) {
			err = nil // the module has not been loaded yet
		}
		return err
	})
	return number, err
}

// lines is a text whose order means nothing: how often each line is in it.
type lines map[string]int

func (l lines) add(prefix, text string) {
	for line := range strings.Lines(text) {
		l[prefix+strings.TrimSpace(line)]++
	}
}

// difference returns the lines that one has and the other has not.
func (l lines) difference(o lines) []string {
	var list []string
	for line := range maps.Keys(l) {
		if l[line] != o[line] {
			list = append(list, line)
		}
	}
	for line := range maps.Keys(o) {
		if _, both := l[line]; !both {
			list = append(list, line)
		}
	}
	slices.Sort(list)
	return list
}

// state is everything that a proxy in the mode ipvs keeps in the kernel, as
// text, without what traffic changes.
func (n *network) state(ctx context.Context, v variant) (lines, error) {
	all := lines{}
	commands := [][]string{
		{"ipset", "save"},
		{"ip", "-o", "address", "show"},
		{"ip", "-o", "link", "show", "kube-ipvs0"},
		{"ip", "-4", "rule"}, {"ip", "-6", "rule"},
		{"ip", "-4", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"},
		{v.multi(), "iptables-save"}, {v.multi(), "ip6tables-save"},
	}
	for _, c := range commands {
		out, err := n.node.Output(ctx, c[0], c[1:]...)
		if err != nil && c[1] != "-o" { // there may be no such link
			return nil, err
		}
		all.add(strings.Join(c, " ")+": ", withoutCounters(out))
	}
	err := n.node.Do(func() error {
		data, err := os.ReadFile(procIPVS)
		if err != nil {
			return err
		}
		server := ""
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) > 0 && fields[0] != "->" {
				server = strings.Join(fields, " ")
				all[server]++
			} else if len(fields) >= 4 {
				all[server+" "+strings.Join(fields[:4], " ")]++
			}
		}
		return nil
	})
	return all, err
}

// hasSet tells whether there is an ipset in a state.
func (l lines) hasSet(name string) bool {
	for line := range l {
		if strings.HasPrefix(line, "ipset save: create "+name+" ") {
			return true
		}
	}
	return false
}

// hasChain ignores the table and the family.
func (l lines) hasChain(name string) bool {
	for line := range l {
		if strings.Contains(line, "tables-save: :"+name+" ") {
			return true
		}
	}
	return false
}

// withoutCounters removes what iptables-save says of time and packets, and what
// ip says of the remaining life of addresses.
func withoutCounters(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, ":") {
			line, _, _ = strings.Cut(line, " [")
			line += "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}
