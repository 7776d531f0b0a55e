//go:build linux

package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Server answers probes, telling who it is and whom it sees. It costs a socket,
// a goroutine and, for UDP, a buffer; hundreds in one namespace are fine.
type Server struct {
	id    Identity
	proto Proto
	hits  atomic.Int64

	disown   func()
	listener net.Listener // for TCP and SCTP
	packets  *net.UDPConn // for UDP
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// Serve starts a server in the namespace. Port 0 lets the kernel choose one. The
// server ends with its Close or with the namespace. For UDP and SCTP the address
// must not be the unspecified one: answers would leave with whatever source the
// routing table suggests.
func (ns *NS) Serve(proto Proto, addr netip.AddrPort) (*Server, error) {
	s := &Server{id: Identity{ns.name, addr}, proto: proto, conns: map[net.Conn]struct{}{}}
	err := s.listen(ns, addr)
	if err == nil {
		s.disown, err = ns.own(s)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve %v %v in %s: %w", proto, addr, ns.name, err), s.closeSockets())
	}
	if proto == UDP {
		s.wg.Go(s.receive)
	} else {
		s.wg.Go(s.accept)
	}
	return s, nil
}

// ServeAll starts servers for all addresses and protocols; if one fails, none is
// left.
func (ns *NS) ServeAll(protos []Proto, addrs ...netip.AddrPort) ([]*Server, error) {
	var servers []*Server
	for _, addr := range addrs {
		for _, proto := range protos {
			s, err := ns.Serve(proto, addr)
			if err == nil {
				servers = append(servers, s)
				continue
			}
			for _, s := range servers {
				err = errors.Join(err, s.Close())
			}
			return nil, err
		}
	}
	return servers, nil
}

func (s *Server) listen(ns *NS, addr netip.AddrPort) (err error) {
	switch {
	case s.proto == TCP:
		s.listener, err = ns.Listen(addr)
		if err == nil {
			s.id.Addr = addrPort(s.listener.Addr())
		}
	case s.proto == SCTP:
		l, err := ns.listenSCTP(addr)
		if err != nil {
			return err // and no listener, rather than a nil one
		}
		s.listener, s.id.Addr = l, netip.AddrPort(l.addr)
	case s.proto == UDP && addr.Addr().IsUnspecified():
		return errors.New("a UDP server needs a specific address")
	case s.proto == UDP:
		s.packets, err = ns.listenUDP(addr)
		if err == nil {
			s.id.Addr = addrPort(s.packets.LocalAddr())
		}
	default:
		return fmt.Errorf("no servers for %v", s.proto)
	}
	return err
}

// Listen makes a listening TCP socket in the namespace, for a server of the
// caller's, such as an API server. The caller closes it.
func (ns *NS) Listen(addr netip.AddrPort) (l net.Listener, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // plain TCP, whatever GODEBUG says
	err = ns.Do(func() error {
		l, err = lc.Listen(context.Background(), "tcp"+family(addr.Addr()), addr.String())
		return err
	})
	return l, err
}

func (ns *NS) listenUDP(addr netip.AddrPort) (c *net.UDPConn, err error) {
	err = ns.Do(func() error {
		c, err = net.ListenUDP("udp"+family(addr.Addr()), net.UDPAddrFromAddrPort(addr))
		return err
	})
	return c, err
}

// family is the suffix that makes the name of a network definite.
func family(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// addrPort converts the address of a socket.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	case sctpAddr:
		ap = netip.AddrPort(a)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Identity is what the server calls itself in its answers. If it listens on the
// unspecified address, answers have the address of the connection instead.
func (s *Server) Identity() Identity { return s.id }

// Hits counts the connections accepted, or the datagrams received, so far.
func (s *Server) Hits() int { return int(s.hits.Load()) }

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // closed: a listener has no other lasting error
		}
		s.hits.Add(1)
		if s.track(c) {
			s.wg.Go(func() { s.converse(c) })
		}
	}
}

// track notes an open connection, or closes it if the server has been closed.
func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// converse serves one connection. Errors mean that the client has gone, which is
// its right.
func (s *Server) converse(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()
	a := answer{
		verb: hello,
		from: Identity{s.id.Name, addrPort(c.LocalAddr())},
		seen: addrPort(c.RemoteAddr()),
	}
	if _, err := io.WriteString(c, a.line()); err != nil {
		return
	}
	for lines := bufio.NewReader(c); ; {
		line, err := lines.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			a.verb, a.text = echo, line[:len(line)-1]
		} else {
			a.verb, a.text = bye, line
		}
		if _, err := io.WriteString(c, a.line()); err != nil || a.verb == bye {
			return
		}
	}
}

func (s *Server) receive() {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := s.packets.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		s.hits.Add(1)
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		a := answer{verb: echo, from: s.id, seen: from}
		// A lost answer is what the probe is there to notice.
		s.packets.WriteToUDPAddrPort(append([]byte(a.line()), buf[:n]...), from)
	}
}

// StopAccepting closes the listening socket of a server that has one and keeps its
// connections, as a terminating pod does. New connections are refused.
func (s *Server) StopAccepting() error {
	if s.listener == nil {
		return errors.New("stop accepting: UDP has nothing to accept")
	}
	return s.listener.Close()
}

// Close ends the server and its connections, and waits until it is gone. Closing
// twice does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	err := s.closeSockets()
	s.wg.Wait()
	s.disown()
	return err
}

func (s *Server) closeSockets() error {
	var err error
	if s.listener != nil {
		err = s.listener.Close()
	}
	if s.packets != nil {
		err = s.packets.Close()
	}
	if errors.Is(err, net.ErrClosed) { // after StopAccepting
		return nil
	}
	return err
}
