package kube

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fairlead-project/fairlead/service"
)

// parseAddr parses an address as the API has stored it since its first days:
// decimal IPv4 with leading zeros is legal, and an IPv4-mapped IPv6 address
// means the IPv4 address. Zones are refused.
func parseAddr(s string) (netip.Addr, error) {
	if strings.ContainsRune(s, '%') {
		return netip.Addr{}, fmt.Errorf("%.80q has a zone", s)
	}
	a, err := netip.ParseAddr(decimal(s))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%.80q is not an IP address", s)
	}
	return a.Unmap(), nil
}

// decimal strips leading zeros from the dotted part of an address. Everything
// else netip must judge.
func decimal(s string) string {
	if !strings.Contains(s, ".0") && !strings.HasPrefix(s, "0") && !strings.Contains(s, ":0") {
		return s
	}
	colon := strings.LastIndexByte(s, ':') + 1
	octets := strings.Split(s[colon:], ".")
	if len(octets) != 4 {
		return s
	}
	for i, o := range octets {
		if t := strings.TrimLeft(o, "0"); t != "" {
			octets[i] = t
		} else if o != "" {
			octets[i] = "0"
		}
	}
	return s[:colon] + strings.Join(octets, ".")
}

// parsePrefix parses a CIDR with the tolerance of parseAddr. Host bits are
// cleared; a prefix of IPv4-mapped addresses becomes an IPv4 prefix.
func parsePrefix(s string) (netip.Prefix, error) {
	addr, length, ok := strings.Cut(s, "/")
	if !ok {
		return netip.Prefix{}, fmt.Errorf("%.80q is not a CIDR: no prefix length", s)
	}
	if strings.ContainsRune(addr, '%') {
		return netip.Prefix{}, fmt.Errorf("%.80q has a zone", s)
	}
	a, err := netip.ParseAddr(decimal(addr))
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%.80q is not a CIDR", s)
	}
	bits, err := strconv.ParseUint(length, 10, 8)
	if err != nil || int(bits) > a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("%.80q is not a CIDR: bad prefix length", s)
	}
	n := int(bits)
	if a.Is4In6() && n >= 96 {
		a, n = a.Unmap(), n-96
	}
	return netip.PrefixFrom(a, n).Masked(), nil
}

// checkVIP says why a must not be answered by a Service, or nil.
func checkVIP(a netip.Addr) error {
	switch {
	case a.IsUnspecified():
		return errors.New("is the unspecified address")
	case a.IsLoopback():
		return errors.New("is a loopback address")
	case a.IsMulticast():
		return errors.New("is a multicast address")
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return errors.New("is the broadcast address")
	}
	return nil
}

// checkEndpoint says why traffic must not be sent to a, or nil. Besides what no
// Service may answer these are link-local addresses: they would turn a Service
// into a way to the metadata service of a cloud.
func checkEndpoint(a netip.Addr) error {
	if a.IsLinkLocalUnicast() {
		return errors.New("is a link-local address")
	}
	return checkVIP(a)
}

// checkLabel says why s cannot be a namespace, the name of a Service or the name
// of a port, or nil. Names end up in rule comments and on command lines, so they
// are checked although the API server does so too.
func checkLabel(s string) error {
	if s == "" {
		return errors.New("is missing")
	}
	if !isLabel(s) && len(validation.IsDNS1123Label(s)) > 0 {
		return fmt.Errorf("%.80q is not a DNS label", s)
	}
	return nil
}

// checkSubdomain says why s cannot be the name of an EndpointSlice, or nil.
func checkSubdomain(s string) error {
	if s == "" {
		return errors.New("is missing")
	}
	if !isSubdomain(s) && len(validation.IsDNS1123Subdomain(s)) > 0 {
		return fmt.Errorf("%.80q is not a DNS name", s)
	}
	return nil
}

// isLabel reports whether s is a DNS label without asking a regular expression,
// which takes ten times as long. Who is refused here asks that again.
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > validation.DNS1123LabelMaxLength || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// isSubdomain is isLabel for labels with dots between them.
func isSubdomain(s string) bool {
	if len(s) > validation.DNS1123SubdomainMaxLength {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// nodeName returns the form in which node names are compared.
func nodeName(s string) string { return strings.ToLower(strings.TrimSpace(s)) }

// portNumber converts n and reports whether it is a port number. Zero is not.
func portNumber(n int32) (uint16, bool) {
	if n < 1 || n > 65535 {
		return 0, false
	}
	return uint16(n), true
}

// protocol converts the name of a protocol. Empty means TCP.
func protocol(s string) (service.Protocol, bool) {
	switch s {
	case "", "TCP":
		return service.TCP, true
	case "UDP":
		return service.UDP, true
	case "SCTP":
		return service.SCTP, true
	}
	return 0, false
}
