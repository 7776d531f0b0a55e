package kernel

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ProbeMark is the firewall mark of the virtual server that HasScheduler adds for
// a moment: "FLPR" in ASCII. It would balance packets with exactly this mark.
const ProbeMark = 0x464c5052

// From linux/ip_vs.h.
const (
	ipvsSetConfig = 12
	ipvsGetConfig = 13

	svcMark = 5

	configTCP    = 4
	configTCPFin = 5
	configUDP    = 6

	maxScheduler = 15 // bytes in a name
)

// HasScheduler reports whether the kernel has a scheduler, of which it loads the
// module, by adding a virtual server on ProbeMark with it. The server is removed
// at once, and so is one that was left there by a process killed in between.
//
// The kernel has lblc and lblcr only if their modules are loaded already; see
// risky. A kernel without IPVS is an error, errors.ErrUnsupported.
func (l *Linux) HasScheduler(name string) (bool, error) {
	if name == "" || name == "none" || len(name) > maxScheduler { // "none" is taken for no scheduler at all
		return false, nil
	}
	if risky(name) {
		return false, nil
	}
	ctx := context.Background()
	id, err := l.ipvsFamily(ctx)
	if err != nil {
		return false, err
	}
	var b batch
	b.probe(id, ipvsDelService, name)
	b.probe(id, ipvsNewService, name)
	b.probe(id, ipvsDelService, name)
	const added = 1 // the message that matters
	var refusal syscall.Errno
	err = l.ipvs.exchange(ctx, &b, func(place int, e syscall.Errno) {
		if place == added {
			refusal = e
		}
	})
	if err == nil && refusal != 0 && refusal != unix.ENOENT {
		err = refusal
	}
	if err != nil {
		return false, fmt.Errorf("try scheduler %s: %w", name, err)
	}
	return refusal == 0, nil
}

// risky reports whether the first server with a scheduler can hang the machine.
// IPVS loads the module of a scheduler under its lock. Those of lblc and lblcr
// register with all network namespaces, for which they wait until namespaces that
// are just being removed are gone, and these wait for the lock of IPVS. No
// namespace can be made or removed then, until the process that asked is killed.
// (Seen with Linux 6.1; any tool can do it.) So they are for use only if somebody
// loaded them, which their settings show.
func risky(scheduler string) bool {
	if scheduler != "lblc" && scheduler != "lblcr" {
		return false
	}
	_, err := os.Stat("/proc/sys/net/ipv4/vs/" + scheduler + "_expiration")
	return err != nil
}

func (b *batch) probe(fam uint16, command uint8, scheduler string) {
	b.beginGeneric(0, fam, command, refused)
	at := b.nest(attrService | unix.NLA_F_NESTED)
	b.u16(svcFamily, unix.AF_INET)
	b.u32(svcMark, ProbeMark)
	if command == ipvsNewService {
		b.serverOptions(&Server{Scheduler: scheduler}, ^uint32(0))
	}
	b.close(at)
	b.end()
}

// Timeouts returns how long IPVS remembers connections of TCP, those of TCP of
// which one side has closed, and those of UDP, each after their last packet.
func (l *Linux) Timeouts() (tcp, tcpFin, udp time.Duration, err error) {
	ctx := context.Background()
	id, err := l.ipvsFamily(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	var b batch
	b.beginGeneric(0, id, ipvsGetConfig, refused)
	b.end()
	err = l.ipvs.get(ctx, &b, func(m message) {
		m.after(genericHeader).each(func(typ uint16, data []byte) {
			d := time.Duration(native32(data)) * time.Second
			switch typ {
			case configTCP:
				tcp = d
			case configTCPFin:
				tcpFin = d
			case configUDP:
				udp = d
			}
		})
	})
	if err != nil {
		return 0, 0, 0, fmt.Errorf("read timeouts: %w", err)
	}
	return tcp, tcpFin, udp, nil
}

// SetTimeouts sets what Timeouts returns, in whole seconds. Zero leaves one as it
// is. Connections that exist take a new timeout at their next packet.
func (l *Linux) SetTimeouts(tcp, tcpFin, udp time.Duration) error {
	ctx := context.Background()
	id, err := l.ipvsFamily(ctx)
	if err != nil {
		return err
	}
	var b batch
	b.beginGeneric(0, id, ipvsSetConfig, refused)
	for typ, d := range [...]time.Duration{configTCP: tcp, configTCPFin: tcpFin, configUDP: udp} {
		if d >= time.Second {
			b.u32(uint16(typ), uint32(d/time.Second)) //nolint:gosec // at most configUDP; hours
		}
	}
	b.end()
	if err := l.ipvs.get(ctx, &b, func(message) {}); err != nil {
		return fmt.Errorf("set timeouts: %w", err)
	}
	return nil
}
