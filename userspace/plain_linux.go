package userspace

import (
	"errors"
	"fmt"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace/relay"
	"github.com/fairlead-project/fairlead/userspace/udp"
)

// plainWorkers are enough for what a node calls itself by localhost.
const plainWorkers = 2

// NewPlainProxy returns a Proxy that needs no rules, no privilege and no marks: it
// listens with ordinary sockets, at places it is told by Listen, and serves callers on
// the node itself. Endpoints see the node's address. Of the embedded Config it uses
// Log only; what else there is must be valid.
//
// Callers from elsewhere are reset. They can get to a loopback address only if the
// kernel was told to let them (net.ipv4.conf.*.route_localnet, CVE-2020-8558).
func NewPlainProxy(cfg ProxyConfig) (*Proxy, error) {
	p, err := newProxy(cfg)
	if err != nil {
		return nil, err
	}
	p.plain = true
	p.tcp, err = relay.New(relay.Config{Handler: p, Workers: plainWorkers, ConnectTimeout: p.cfg.ConnectTimeout})
	if err != nil {
		return nil, fmt.Errorf("userspace: %w", err)
	}
	p.udp, err = udp.Open(udp.Config{
		Handler: sessions{p}, Workers: plainWorkers, IdleTimeout: cfg.UDPTimeout, MaxSessions: cfg.MaxSessions,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("userspace: %w", err), p.tcp.Close())
	}
	return p, nil
}

// Listen begins to listen at a place, of a Proxy that NewPlainProxy has made. Follow
// says what is served there, and has to be told before.
func (p *Proxy) Listen(at Place) error {
	var err error
	switch at.Protocol {
	case service.TCP:
		_, err = p.tcp.Listen(at.Addr, service.FromHost)
	case service.UDP:
		_, err = p.udp.Listen(udp.Listener{Addr: at.Addr, Origin: service.FromHost})
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("userspace: %s: %w", at.Protocol, err)
	}
	return nil
}

// Unlisten ends what Listen began. New connections are refused from then on, and UDP
// sessions end; TCP connections are kept.
func (p *Proxy) Unlisten(at Place) {
	if at.Protocol == service.UDP {
		p.udp.Unlisten(at.Addr)
	} else {
		p.tcp.Unlisten(at.Addr)
	}
}
