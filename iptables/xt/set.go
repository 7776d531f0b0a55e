package xt

import (
	"fmt"
	"strings"
)

// MaxSetName is the longest name of an ipset (IPSET_MAXNAMELEN less the
// terminator).
const MaxSetName = 31

// maxDirs is how many dimensions xt_set can look at (IPSET_DIM_MAX).
const maxDirs = 6

// InSet matches packets that are in the ipset Set, or are not. Dirs says for
// each dimension of the set which side of the packet to look at: "dst,dst,src"
// are the destination's address and port and the caller's address. The tools
// refuse a set that does not exist, so the sets come before the rules and go
// after them.
type InSet struct {
	Set  string
	Dirs string
	Not  bool
}

func (m InSet) appendArgs(b []byte) []byte {
	b = append(appendNot(append(b, "-m set "...), m.Not), "--match-set "...)
	return append(append(append(b, m.Set...), ' '), m.Dirs...)
}

func (m InSet) matches(p *Packet) bool {
	return (p.Sets != nil && p.Sets(m.Set, p, m.Dirs)) != m.Not
}

func (m InSet) check(Family) error {
	if len(m.Set) > MaxSetName || !isWord(m.Set) || m.Set[0] == '-' || m.Set[0] == '!' {
		return fmt.Errorf("set name %q", m.Set)
	}
	dirs := strings.Split(m.Dirs, ",")
	for _, d := range dirs {
		if d != "src" && d != "dst" || len(dirs) > maxDirs {
			return fmt.Errorf("set %s: directions %q", m.Set, m.Dirs)
		}
	}
	return nil
}

func (InSet) slot() slot { return slotExtension }

// ViaIPVS matches packets that IPVS has redirected.
type ViaIPVS struct{}

func (ViaIPVS) appendArgs(b []byte) []byte { return append(b, "-m ipvs --ipvs"...) }
func (ViaIPVS) matches(p *Packet) bool     { return p.Balanced }
func (ViaIPVS) check(Family) error         { return nil }
func (ViaIPVS) slot() slot                 { return slotExtension }
