package kube

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/service"
)

// ports sets Ports. Of two ports that want the same name or number the first
// counts.
func (c *serviceConversion) ports() {
	for i := range c.in.Spec.Ports {
		if p, ok := c.port(i, at("spec.ports", i)); ok {
			c.out.Ports = append(c.out.Ports, p)
		}
	}
}

func (c *serviceConversion) port(i int, path string) (service.ServicePort, bool) {
	in := &c.in.Spec.Ports[i]
	if in.Name != "" {
		if err := checkLabel(in.Name); err != nil {
			c.add(reasonPort, path+".name", "%v; the port is not served", err)
			return service.ServicePort{}, false
		}
	}
	proto, ok := protocol(string(in.Protocol))
	if !ok {
		c.add(reasonPort, path+".protocol", "%.80q is not a protocol; the port is not served", in.Protocol)
		return service.ServicePort{}, false
	}
	number, ok := portNumber(in.Port)
	if !ok {
		c.add(reasonPort, path+".port", "%d is not a port number; the port is not served", in.Port)
		return service.ServicePort{}, false
	}
	for _, p := range c.out.Ports {
		if p.Protocol != proto {
			continue
		}
		if p.Name == in.Name {
			c.add(reasonPort, path+".name", "another port has the name %q and protocol %v; this one is not served", in.Name, proto)
			return service.ServicePort{}, false
		}
		if p.Port == number {
			c.add(reasonPort, path+".port", "port %q already is %d/%v; this one is not served", p.Name, number, proto)
			return service.ServicePort{}, false
		}
	}
	return service.ServicePort{
		Name:     c.intern.share(in.Name),
		Protocol: proto,
		Port:     number,
		NodePort: c.nodePort(in, proto, path+".nodePort"),

		AppProtocol: c.appProtocol(in, path+".appProtocol"),
	}, true
}

// maxAppProtocol is the length of the longest name with a prefix that the API
// server takes.
const maxAppProtocol = 317

// appProtocol returns the protocol that the object says is spoken at the port, if
// it wants it passed on. It is used as a word only, so that an odd one does no
// harm, but it is bounded.
func (c *serviceConversion) appProtocol(in *corev1.ServicePort, path string) string {
	if in.AppProtocol == nil || !c.any {
		return ""
	}
	if len(*in.AppProtocol) > maxAppProtocol {
		c.add(reasonValue, path, "%.80q… is longer than %d bytes; not used", *in.AppProtocol, maxAppProtocol)
		return ""
	}
	return c.intern.share(*in.AppProtocol)
}

// nodePort returns the node port of in, or zero. The type of the Service does
// not matter, only the number.
func (c *serviceConversion) nodePort(in *corev1.ServicePort, proto service.Protocol, path string) uint16 {
	if in.NodePort == 0 || c.out.Headless {
		return 0
	}
	number, ok := portNumber(in.NodePort)
	if !ok {
		c.add(reasonPort, path, "%d is not a port number; the port has no node port", in.NodePort)
		return 0
	}
	taken := slices.ContainsFunc(c.out.Ports, func(p service.ServicePort) bool {
		return p.NodePort == number && p.Protocol == proto
	})
	if taken {
		c.add(reasonPort, path, "another port already has the node port %d/%v; this one has none", number, proto)
		return 0
	}
	return number
}
