package xt

import "fmt"

// SameAddr matches packets whose source address is their destination address:
// after DNAT, connections that are sent back to their own caller. It needs
// xt_bpf; no other match compares two fields of a packet.
type SameAddr struct {
	Family Family
}

// Programs in classic BPF, as iptables takes them: the number of instructions,
// then opcode, two jump offsets and operand of each. The packet begins at the
// network header. In words: load a word of the source address (32), keep it (7),
// load the same word of the destination (32), skip to the end unless equal (29);
// at the end return all (6 … 65535) or nothing (6 … 0).
const (
	sameAddr4 = "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 65535,6 0 0 0"
	sameAddr6 = "18," +
		"32 0 0 20,7 0 0 0,32 0 0 36,29 0 13 0," +
		"32 0 0 16,7 0 0 0,32 0 0 32,29 0 9 0," +
		"32 0 0 12,7 0 0 0,32 0 0 28,29 0 5 0," +
		"32 0 0 8,7 0 0 0,32 0 0 24,29 0 1 0," +
		"6 0 0 65535,6 0 0 0"
)

// Program returns the program, as iptables takes it.
func (m SameAddr) Program() string {
	if m.Family == IPv6 {
		return sameAddr6
	}
	return sameAddr4
}

func (m SameAddr) appendArgs(b []byte) []byte {
	return append(append(append(b, `-m bpf --bytecode "`...), m.Program()...), '"')
}

func (SameAddr) matches(p *Packet) bool { return p.Src.Addr() == p.Dst.Addr() }

func (m SameAddr) check(f Family) error {
	if m.Family != f {
		return fmt.Errorf("the program is for %v", m.Family)
	}
	return nil
}

func (SameAddr) slot() slot { return slotExtension }
