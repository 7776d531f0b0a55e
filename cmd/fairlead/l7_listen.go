package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/fairlead-project/fairlead/l7/handover"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
	"github.com/fairlead-project/fairlead/service/kube"
)

// l7Listeners are where clients come in.
type l7Listeners struct {
	open    map[string]handover.Share // by address with "http " or "https " in front
	estate  *handover.Estate          // that they are from; nil: we have opened them
	offer   *handover.Offer
	serving bool
}

// listen opens the listeners, or takes those over that another process has.
func (p *l7Process) listen(ctx context.Context) (*l7Listeners, error) {
	l := &l7Listeners{open: make(map[string]handover.Share)}
	if p.flags.Handover != "" {
		var err error
		if l.estate, err = handover.Take(p.flags.Handover); err != nil {
			p.log.Warn("the listeners of the other process cannot be had; opening new ones", "err", err)
		}
	}
	for _, a := range []struct{ scheme, addr string }{{"http", p.flags.HTTP}, {"https", p.flags.HTTPS}} {
		if a.addr == "" {
			continue
		}
		name := a.scheme + " " + a.addr
		if l.estate != nil {
			if old, ok := l.estate.Listeners[name].(handover.Share); ok {
				l.open[name] = old
				continue
			}
		}
		var lc net.ListenConfig
		opened, err := lowPort(func() (net.Listener, error) { return lc.Listen(ctx, "tcp", a.addr) })
		if err != nil {
			l.close()
			return nil, fmt.Errorf("--%s-bind-address: %w", a.scheme, err)
		}
		l.open[name] = opened.(*net.TCPListener)
	}
	return l, nil
}

// serve lets clients in, and waits for another process to take over.
func (l *l7Listeners) serve(ctx context.Context, p *l7Process) {
	l.serving = true
	for name, listener := range l.open {
		scheme, _, _ := strings.Cut(name, " ")
		p.start(ctx, func(ctx context.Context) error {
			return p.server.Engine().Serve(ctx, scheme, listener, scheme == "https")
		})
		p.log.Info("serving", "what", name, "at", listener.Addr().String())
	}
	if l.estate != nil {
		if err := l.estate.TakeOver(); err != nil {
			p.log.Warn("the process before this one was not told to stop", "err", err)
		}
		for name, listener := range l.estate.Listeners {
			if l.open[name] == nil {
				listener.Close() // nobody serves there any more
			}
		}
	}
	if p.flags.Handover == "" {
		return
	}
	var err error
	if l.offer, err = handover.NewOffer(p.flags.Handover, l.open); err != nil {
		p.log.Error("no other process will be able to take over", "err", err)
		return
	}
	p.start(ctx, l.offer.Run)
}

// successor is closed when another process has taken over.
func (l *l7Listeners) successor() <-chan struct{} {
	if l.offer == nil {
		return nil
	}
	return l.offer.Taken()
}

// close gives up our hold on the sockets; another process may still have them.
func (l *l7Listeners) close() {
	for _, listener := range l.open {
		listener.Close()
	}
	if l.estate != nil && !l.serving {
		l.estate.Close()
	}
}

// A zoneTracker tells a loop about our Node: its zone, for topology, and which family comes first.
type zoneTracker struct {
	loop *control.Loop
	node service.Node
}

func (t *zoneTracker) set(ctx context.Context, n *kube.NodeInfo) {
	node := t.node
	if n != nil {
		node.Zone = n.Zone
		if len(n.Addrs) > 0 {
			first := n.Addrs[0]
			node.Primary[service.FamilyOf(first)] = first
		}
	}
	err := t.loop.Update(ctx, func(s *service.Store) bool { s.SetNode(node); return true })
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, control.ErrStopped) {
		return // the process is about to end
	}
}
