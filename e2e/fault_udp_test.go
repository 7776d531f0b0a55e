//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// dns is the UDP Service of these tests.
func dns(target uint16, endpoints ...endpoint) fixture {
	return fixture{
		name: "dns", ip: clusterIP(10), protocol: corev1.ProtocolUDP,
		port: 53, target: target, nodePort: 30053, endpoints: endpoints,
	}
}

// follow is how long a flow may take to go where it should after a change:
// detection of the change, the sync, and the clean-up, on a busy machine.
const follow = 8 * time.Second

// drained is how long the clean-up goes on after a change: it looks again after
// one and after five seconds.
const drained = 6500 * time.Millisecond

// TestFaultUDP has clients that never close their socket, whose flows connection
// tracking would keep with whatever endpoint they had in the beginning.
func TestFaultUDP(t *testing.T) { eachVariant(t, faultUDP) }

func faultUDP(t *testing.T, b *bed) {
	a, z := pod(2), pod(3)
	b.serve(t, netns.UDP, 5353, a, z)
	b.serve(t, netns.UDP, 5354, z)
	b.serve(t, netns.UDP, 53, clusterIP(10)) // answers while nobody translates
	b.serve(t, netns.UDP, 30053, netns.ClientAddr(1), netns.PodAddr(2, 2))
	strangers := b.strangers(t)
	talkers := b.talkers(t)
	b.put(t)
	b.start(t)
	b.await(t)
	b.reverse(t, talkers[0], talkers[4]) // one of each family
	for _, step := range []struct {
		name string
		put  []fixture
		want func(netns.Result) error
		stay bool // nothing else may be seen, not even in passing
	}{
		{"the Service appears", []fixture{dns(5353, endpoint{pod: a})}, answeredBy(a, 5353), false},
		{"its endpoint is replaced", []fixture{dns(5353, endpoint{pod: z})}, answeredBy(z, 5353), false},
		{"the port of the endpoint changes", []fixture{dns(5354, endpoint{pod: z})}, answeredBy(z, 5354), false},
		{"the endpoint drains beside a new one", []fixture{dns(5354, endpoint{z, true}, endpoint{pod: pod(4)})}, answeredBy(z, 5354), true},
		{"it is gone", []fixture{dns(5353, endpoint{pod: a})}, answeredBy(a, 5353), false},
		{"the last endpoint goes", []fixture{dns(5353)}, refused, false},
		{"the first endpoint comes", []fixture{dns(5353, endpoint{pod: z})}, answeredBy(z, 5353), false},
		{"the Service is deleted", nil, answeredByNoPod, false},
	} {
		var marks []int
		for _, k := range talkers {
			marks = append(marks, k.mark())
		}
		b.apply(t, step.put...)
		if step.stay {
			time.Sleep(drained)
		}
		took := within(t, follow, func() error {
			for i, k := range talkers {
				if err := k.settle(marks[i], step.want); err != nil {
					return fmt.Errorf("%s: %w", step.name, err)
				}
			}
			return nil
		})
		t.Logf("%s: all flows follow %v after the rules", step.name, took.Round(10*time.Millisecond))
		for i, k := range talkers {
			for _, r := range k.since(marks[i]) {
				if err := step.want(r); step.stay && err != nil {
					t.Errorf("%s: %s: %v", step.name, k.name, err)
				}
			}
		}
	}
	b.checkStrangers(t, strangers)
}

// talkers are clients of the Service at each of its frontends.
func (b *bed) talkers(t *testing.T) []*talker {
	t.Helper()
	caller := b.place(t, pod(9))
	var out []*talker
	for i, ip := range clusterIP(10).Slice() {
		out = append(out,
			talk(t, "pod", caller, netip.AddrPortFrom(ip, 53)),
			talk(t, "client", b.Client, netip.AddrPortFrom(ip, 53)),
			talk(t, "host", b.N1.NS, netip.AddrPortFrom(ip, 53)),
			talk(t, "client", b.Client, netip.AddrPortFrom(netns.NodeAddr(1).Slice()[i], 30053)))
	}
	return out
}

// reverse has the flow of a talker at a cluster IP look as if the answering side
// had begun it, which is what a late answer to a flow makes of it that the kernel
// was told to forget.
func (b *bed) reverse(t *testing.T, talkers ...*talker) {
	t.Helper()
	for _, k := range talkers {
		var src netip.AddrPort
		within(t, follow, func() error {
			all := k.since(0)
			if len(all) == 0 || all[len(all)-1].Class != netns.Reply {
				return fmt.Errorf("%s has no answer yet", k.name)
			}
			src = all[len(all)-1].SeenSource
			return nil
		})
		tuple := func(from, to netip.AddrPort) netlink.IPTuple {
			return netlink.IPTuple{
				Protocol: unix.IPPROTO_UDP,
				SrcIP:    from.Addr().AsSlice(), SrcPort: from.Port(), DstIP: to.Addr().AsSlice(), DstPort: to.Port(),
			}
		}
		family := netlink.InetFamily(unix.AF_INET)
		if src.Addr().Is6() {
			family = unix.AF_INET6
		}
		of := &netlink.ConntrackFilter{}
		err := of.AddProtocol(unix.IPPROTO_UDP)
		if err = errors.Join(err, of.AddPort(netlink.ConntrackOrigSrcPort, src.Port())); err != nil {
			t.Fatal(err)
		}
		entry := &netlink.ConntrackFlow{
			FamilyType: uint8(family), Forward: tuple(k.dst, src), Reverse: tuple(src, k.dst), TimeOut: 120,
		}
		within(t, follow, func() error { // it fails if the talker is faster
			return b.N1.Do(func() error {
				_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, of)
				return errors.Join(err, netlink.ConntrackCreate(netlink.ConntrackTable, family, entry))
			})
		})
	}
}

// strangers are flows through n1 to port 30053 of somebody else. A rule that is
// not fairlead's gives each a random source port, which shows when the kernel
// has forgotten one of them.
func (b *bed) strangers(t *testing.T) []*talker {
	t.Helper()
	b.ipt(t, "-t", "nat", "-A", "POSTROUTING", "-p", "udp", "--dport", "30053", "-j", "MASQUERADE", "--random-fully")
	const patience = 5 * time.Second // none of their answers may be lost, on a busy machine either
	var out []*talker
	for i, a := range netns.ClientAddr(1).Slice() {
		out = append(out,
			talkWith(t, "stranger in a pod", b.place(t, pod(9)), netip.AddrPortFrom(a, 30053), patience),
			talkWith(t, "stranger in the host", b.N1.NS, netip.AddrPortFrom(a, 30053), patience),
			talkWith(t, "stranger outside", b.Client, netip.AddrPortFrom(netns.PodAddr(2, 2).Slice()[i], 30053), patience))
	}
	return out
}

// checkStrangers wants each stranger's flow to have been left alone, and checks
// that it would have noticed.
func (b *bed) checkStrangers(t *testing.T, strangers []*talker) {
	t.Helper()
	for _, k := range strangers {
		if err := k.unchanged(); err != nil {
			t.Error(err)
		}
	}
	err := b.N1.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range strangers {
		within(t, follow, func() error {
			if k.unchanged() == nil {
				return fmt.Errorf("%s: a forgotten flow looks like one that is not", k.name)
			}
			return nil
		})
	}
}
