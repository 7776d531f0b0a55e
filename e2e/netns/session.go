//go:build linux

package netns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Session is a UDP or ICMP client with one source port, so that all it sends is
// one flow to connection tracking. Not for concurrent use.
type Session struct {
	udp    *net.UDPConn // net has no type for ping sockets, and this one will do
	raw    rawControl
	r      Request
	sent   uint16
	disown func()
}

type rawControl interface {
	Control(func(fd uintptr)) error
}

// OpenSession prepares a session with the destination. Nothing is sent, but it
// fails if there is no route.
func (ns *NS) OpenSession(r Request) (*Session, error) {
	if r.Proto == TCP || r.Proto == SCTP || r.Size > maxDatagram {
		return nil, fmt.Errorf("open session: no datagrams of %d bytes over %v", r.Size, r.Proto)
	}
	nc, err := ns.connect(context.Background(), r) // does not block
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	s := &Session{udp: nc.(*net.UDPConn), r: r}
	s.raw, err = s.udp.SyscallConn()
	if err == nil {
		s.disown, err = ns.own(s.udp)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open session: %w", err), nc.Close())
	}
	return s, nil
}

// Local is the client's own address.
func (s *Session) Local() netip.AddrPort { return addrPort(s.udp.LocalAddr()) }

// Close ends the session.
func (s *Session) Close() error {
	s.disown()
	return s.udp.Close()
}

// Exchange sends one datagram, never a second one, and waits for the answer to
// it. Answers to earlier ones are skipped. It can be called again after any
// result.
func (s *Session) Exchange(ctx context.Context) Result {
	start := time.Now()
	res, err := s.exchange(ctx, start.Add(s.r.timeout()))
	if err != nil {
		err = cancelled(ctx, err)
		res = Result{Class: classify(err), Err: err}
	}
	res.Local, res.Elapsed = s.Local(), time.Since(start)
	return res
}

func (s *Session) exchange(ctx context.Context, deadline time.Time) (Result, error) {
	if err := s.udp.SetDeadline(deadline); err != nil {
		return Result{}, err
	}
	defer interrupt(ctx, s.udp.SetDeadline)()
	if err := s.forgetErrors(); err != nil {
		return Result{}, err
	}
	s.sent++
	text := payload(fmt.Sprintf("probe-%d-", s.sent), s.r.Size)
	_, werr := s.udp.Write(s.frame(text))
	// EPERM: a netfilter rule of this namespace dropped it on its way out. The
	// rule may also have answered it, so listen as if it had been sent.
	if werr != nil && !errors.Is(werr, unix.EPERM) {
		return Result{}, werr
	}
	buf := make([]byte, maxHeader+maxDatagram)
	for {
		n, err := s.udp.Read(buf)
		if err != nil {
			return Result{}, errors.Join(err, werr)
		}
		res, ok, err := s.match(buf[:n], text)
		if ok || err != nil {
			return res, err
		}
	}
}

// forgetErrors clears the ICMP errors that came for earlier datagrams.
func (s *Session) forgetErrors() error {
	var err error
	cerr := s.raw.Control(func(fd uintptr) {
		for err == nil {
			_, _, _, _, err = unix.Recvmsg(int(fd), nil, nil, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		}
		if errors.Is(err, unix.EAGAIN) {
			_, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return fmt.Errorf("clear pending errors: %w", err)
	}
	return nil
}

// ICMP echo message types, RFC 792 and RFC 4443.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
	echoHeader               = 8
)

// frame is what goes to the socket. The kernel fills in the checksum and the
// identifier of an ICMP message.
func (s *Session) frame(text string) []byte {
	if s.r.Proto == UDP {
		return []byte(text)
	}
	b := make([]byte, echoHeader, echoHeader+len(text))
	b[0] = echoRequest6
	if s.r.Dst.Addr().Is4() {
		b[0] = echoRequest4
	}
	binary.BigEndian.PutUint16(b[6:], s.sent)
	return append(b, text...)
}

// match reads what came from the socket. It is not ok, without an error, if it
// answers an earlier datagram.
func (s *Session) match(b []byte, text string) (Result, bool, error) {
	if s.r.Proto == ICMP {
		return s.matchEcho(b, text)
	}
	head, body, found := bytes.Cut(b, []byte("\n"))
	if !found {
		return Result{}, false, fmt.Errorf("not one of our servers: it said %q", b)
	}
	a, err := parseAnswer(string(head))
	if err != nil {
		return Result{}, false, err
	}
	if string(body) == text {
		return Result{Class: Reply, From: a.from, SeenSource: a.seen}, true, nil
	}
	if len(body) == len(text) && s.isEarlier(body) {
		return Result{}, false, nil
	}
	return Result{}, false, fmt.Errorf("%v returned a payload of %d bytes that is not the one of %d bytes sent",
		a.from, len(body), len(text))
}

// isEarlier reports whether a payload is one this session has sent before.
func (s *Session) isEarlier(body []byte) bool {
	var n uint16
	_, err := fmt.Sscanf(string(body), "probe-%d-", &n)
	return err == nil && n != s.sent
}

func (s *Session) matchEcho(b []byte, text string) (Result, bool, error) {
	want := byte(echoReply6)
	if s.r.Dst.Addr().Is4() {
		want = echoReply4
	}
	if len(b) < echoHeader || b[0] != want || binary.BigEndian.Uint16(b[6:]) != s.sent {
		return Result{}, false, nil
	}
	if string(b[echoHeader:]) != text {
		return Result{}, false, fmt.Errorf("echo of %d bytes differs from the %d bytes sent", len(b)-echoHeader, len(text))
	}
	return Result{Class: Reply}, true, nil
}
