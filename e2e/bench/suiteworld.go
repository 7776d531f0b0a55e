//go:build linux

package main

import (
	"net"
	"net/netip"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
	"github.com/fairlead-project/fairlead/e2e/netns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The Service for package load: its port of a kind, and that of its endpoints.
const (
	loadPort       = 81
	loadTargetPort = 8081
	loadEndpoints  = 4
)

func loadKinds() []load.Kind { return []load.Kind{load.Ping, load.Connect} }

// loadTarget is where the load of a kind goes to.
func (s spec) loadTarget(k load.Kind) netip.AddrPort {
	return netip.AddrPortFrom(vip(s.beyond()-1).Addr(), loadPort+uint16(k))
}

// loadObjects make Service i, which has a port for each kind of load.
func loadObjects(i int) []object {
	svc := service(i)
	var addrs []netip.Addr
	for k := range loadEndpoints {
		addrs = append(addrs, liveAddr(k))
	}
	eps := slice(i, addrs)
	svc.Spec.Ports, eps.Ports = nil, nil
	for _, k := range loadKinds() {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{
			Name: k.String(), Protocol: corev1.ProtocolTCP, Port: loadPort + int32(k), TargetPort: intstr.FromInt32(loadTargetPort + int32(k)),
		})
		eps.Ports = append(eps.Ports, discoveryv1.EndpointPort{
			Name: new(k.String()), Protocol: new(corev1.ProtocolTCP), Port: new(loadTargetPort + int32(k)),
		})
	}
	return []object{svc, eps}
}

// serveLoads answers loads at all addresses of the router.
func serveLoads(router *netns.NS) (*load.Server, error) {
	listeners := map[load.Kind][]net.Listener{}
	for _, k := range loadKinds() {
		l, err := router.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), loadTargetPort+uint16(k)))
		if err != nil {
			for _, list := range listeners {
				list[0].Close()
			}
			return nil, err
		}
		listeners[k] = []net.Listener{l}
	}
	return load.NewServer(listeners)
}
