package xt

import (
	"fmt"
	"strconv"
)

// DPortRange matches packets of Protocol (TCP, UDP or SCTP) to a port from Low
// to High, both included. Like [DPort] it includes [Proto].
type DPortRange struct {
	Protocol  Protocol
	Low, High uint16
}

func (m DPortRange) appendArgs(b []byte) []byte {
	b = append(b, "-m "...)
	b = append(b, m.Protocol.String()...)
	b = append(b, " --dport "...)
	b = strconv.AppendUint(b, uint64(m.Low), 10)
	b = append(b, ':')
	return strconv.AppendUint(b, uint64(m.High), 10)
}

func (m DPortRange) matches(p *Packet) bool {
	return p.Proto == m.Protocol && m.Low <= p.Dst.Port() && p.Dst.Port() <= m.High
}

func (m DPortRange) check(Family) error {
	if !m.Protocol.hasPorts() {
		return fmt.Errorf("protocol %v has no ports", m.Protocol)
	}
	if m.Low > m.High {
		return fmt.Errorf("port range %d:%d is empty", m.Low, m.High)
	}
	return nil
}

func (DPortRange) slot() slot { return slotExtension }
