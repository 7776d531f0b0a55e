package userspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace/balance"
	"github.com/fairlead-project/fairlead/userspace/handover"
	"github.com/fairlead-project/fairlead/userspace/relay"
	"github.com/fairlead-project/fairlead/userspace/udp"
)

// A process that starts while another of this mode runs takes its place:
//
//	new ──connects──▶ abstract socket of the old
//	    ◀─listeners─  which both have from then on; the old one goes on to accept
//	    ──take──────▶ once it knows what to serve. The old one accepts no more
//	    ◀─balancers─  who is bound where, which endpoints have failed
//	    ◀─sessions──  of UDP; the old one has stopped to read before
//	    ◀─begin─────  the new one serves
//	    ◀─conns─────  of TCP, some at a time, until there are none
//	    ──ack───────▶ after each of these
//
// What is not acknowledged stays with the old process and is served there.

// successionName is the socket's. The version is not in it: that is for the greeting.
const successionName = "fairlead/userspace"

// successionVersion is of the meaning of messages. Fields may be added without
// another: who does not know them passes them over.
const successionVersion = 1

const (
	// passTime is how long what is not TCP may take to be handed over, while nobody
	// is served.
	passTime = 5 * time.Second
	// giveTime is how long all may take. Connections that still look for an endpoint
	// are handed over when they have found one.
	giveTime = 20 * time.Second
	// waitTime is how long a process that is to end waits for one that has begun
	// to take its place.
	waitTime = 5 * time.Second
	// lastCalls is how long connections may go on when the process ends and nobody
	// takes its place. Most are done by then.
	lastCalls = time.Second
	// offerRetry is the time between attempts to have the socket, while the process
	// before this one still has it.
	offerRetry = time.Second
)

// A greeting is the first message of the old process. It comes with a descriptor for
// each listener.
type greeting struct {
	Version int
	TCP     []tcpSocket
	UDP     []udpSocket
}

type tcpSocket struct {
	Addr   netip.AddrPort
	Origin service.Origin
}

type udpSocket struct {
	Addr   netip.AddrPort
	Origin service.Origin
	Worker int
}

// A request is what the new process says: that it takes over, and then that it has
// got a parcel.
type request struct {
	Take    bool `json:",omitempty"`
	Version int  `json:",omitempty"`
}

// A parcel is any other message of the old process; one of its fields is set.
type parcel struct {
	Balancers []balancer      `json:",omitempty"`
	Sessions  []passedSession `json:",omitempty"` // one descriptor each
	Begin     bool            `json:",omitempty"`
	Conns     []passedConn    `json:",omitempty"` // as many descriptors as it says
	Done      bool            `json:",omitempty"`
}

// A balancer is what is known of a Port.
type balancer struct {
	Port  service.PortID
	State balance.State
}

// A passedSession is one of UDP.
type passedSession struct {
	Port    service.PortID
	Session udp.Given
}

// A passedConn is one of TCP.
type passedConn struct {
	Port     service.PortID
	Client   netip.AddrPort
	Frontend netip.AddrPort
	Endpoint netip.AddrPort
	Age      time.Duration // since it was accepted
	State    relay.State
	FDs      int
}

// A succession is what a Proxy has to do with those before and after it.
type succession struct {
	estate *estate // of the process before; nil without

	mu         sync.Mutex
	candidates int  // processes that have the listeners, and may take over
	passing    bool // one has
	quiet      bool // too late

	relieved chan struct{} // closed when another process begins to take over
	passed   chan struct{} // closed when it has got what it gets
	free     chan struct{} // has something when candidates has become zero

	given, taken atomic.Uint64 // UDP sessions
}

func newSuccession() *succession {
	return &succession{relieved: make(chan struct{}), passed: make(chan struct{}), free: make(chan struct{}, 1)}
}

// An estate is what a process has got of the one before, and gets.
type estate struct {
	conn *handover.Conn
	tcp  []relay.Socket
	udp  []udp.Socket
}

// inherit asks the process before for its listeners; nil if there is none.
func inherit() (*estate, error) {
	conn, err := handover.Dial(successionName)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nobody before us is not an error
	}
	if err != nil {
		return nil, fmt.Errorf("ask the process before for its sockets: %w", err)
	}
	var hello greeting
	err = conn.SetDeadline(time.Now().Add(passTime))
	var fds []int
	if err == nil {
		fds, err = conn.Receive(&hello)
	}
	if err == nil && len(fds) != len(hello.TCP)+len(hello.UDP) {
		err = fmt.Errorf("%d descriptors for %d listeners", len(fds), len(hello.TCP)+len(hello.UDP))
		handover.CloseAll(fds)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("get the sockets of the process before: %w", err), conn.Close())
	}
	e := &estate{conn: conn}
	for i, s := range hello.TCP {
		e.tcp = append(e.tcp, relay.Socket{Addr: s.Addr, Origin: s.Origin, FD: fds[i]})
	}
	for i, s := range hello.UDP {
		e.udp = append(e.udp, udp.Socket{Addr: s.Addr, Origin: s.Origin, Worker: s.Worker, FD: fds[len(hello.TCP)+i]})
	}
	return e, nil
}

// listener takes a TCP listener out of the estate, if it has it.
func (e *estate) listener(at netip.AddrPort, o service.Origin) (relay.Socket, bool) {
	if e == nil {
		return relay.Socket{}, false
	}
	i := slices.IndexFunc(e.tcp, func(s relay.Socket) bool { return s.Addr == at && s.Origin == o })
	if i < 0 {
		return relay.Socket{}, false
	}
	s := e.tcp[i]
	e.tcp = slices.Delete(e.tcp, i, i+1)
	return s, true
}

// datagrams takes all UDP listeners out of the estate.
func (e *estate) datagrams() []udp.Socket {
	if e == nil {
		return nil
	}
	list := e.udp
	e.udp = nil
	return list
}

// rest closes the sockets that nobody has asked for.
func (e *estate) rest() {
	if e == nil {
		return
	}
	for _, s := range e.tcp {
		handover.CloseAll([]int{s.FD})
	}
	for _, s := range e.udp {
		handover.CloseAll([]int{s.FD})
	}
	e.tcp, e.udp = nil, nil
}

// close gives up before anything was taken: the process before goes on.
func (e *estate) close() {
	if e != nil {
		e.rest()
		_ = e.conn.Close() // nobody waits for what it says
	}
}

// offer waits for a process that takes over, until ctx is done.
func (p *Proxy) offer(ctx context.Context) {
	l := p.offered(ctx)
	if l == nil {
		return
	}
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				p.log.Error("no other process will be able to take over", "err", err)
			}
			return
		}
		group.Go(func() {
			defer conn.Close()
			taken, err := p.candidate(ctx, conn)
			if !taken {
				return
			}
			cancel() // the name is the other's now
			if err == nil {
				err = p.handOver(conn)
			}
			close(p.succession.passed)
			c := p.Counts()
			p.log.Info("another process has taken over", "connections", c.Given, "sessions", float64(p.succession.given.Load()),
				"left", c.Connections+c.Sessions, "err", err)
		})
	}
}

// offered returns the socket to wait at, or nil if ctx is done first.
func (p *Proxy) offered(ctx context.Context) *handover.Listener {
	for first := true; ; first = false {
		l, err := handover.Listen(successionName)
		if err == nil {
			return l
		}
		if first {
			p.log.Info("another process cannot take over yet: the socket for that is taken", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(offerRetry):
		}
	}
}

// candidate gives the listeners to a process, and waits until it takes over. The
// error says that it cannot be given more.
func (p *Proxy) candidate(ctx context.Context, conn *handover.Conn) (taken bool, err error) {
	s := p.succession
	if !s.admit() {
		return false, nil
	}
	defer s.dismiss()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := p.greet(conn); err != nil {
		p.log.Warn("another process was not given the sockets", "err", err)
		return false, nil
	}
	var r request
	if _, err := conn.Receive(&r); err != nil || !r.Take || !stop() {
		return false, nil // it has given up, or is too late
	}
	if !s.begin() {
		return false, nil
	}
	if r.Version != successionVersion {
		err = fmt.Errorf("it speaks version %d, we %d: what is open stays here", r.Version, successionVersion)
	}
	p.tcp.Leave()
	return true, err
}

// admit notes a candidate, unless it is too late for one.
func (s *succession) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quiet || s.passing {
		return false
	}
	s.candidates++
	return true
}

func (s *succession) dismiss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.candidates--; s.candidates == 0 {
		select {
		case s.free <- struct{}{}:
		default:
		}
	}
}

// begin reports whether a candidate is the first to take over.
func (s *succession) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passing || s.quiet {
		return false
	}
	s.passing = true
	close(s.relieved)
	return true
}

// greet sends the listeners.
func (p *Proxy) greet(conn *handover.Conn) error {
	streams, err := p.tcp.Sockets()
	if err != nil {
		return err
	}
	hello := greeting{Version: successionVersion}
	var fds []int
	defer func() { handover.CloseAll(fds) }()
	for _, s := range streams {
		hello.TCP = append(hello.TCP, tcpSocket{s.Addr, s.Origin})
		fds = append(fds, s.FD)
	}
	datagrams, err := p.udp.Sockets()
	if err != nil {
		return err
	}
	for _, s := range datagrams {
		hello.UDP = append(hello.UDP, udpSocket{s.Addr, s.Origin, s.Worker})
		fds = append(fds, s.FD)
	}
	return conn.Send(hello, fds)
}

// Relieved is closed when another process begins to take over. From then on this one
// has nothing to do but to serve what it has left.
func (p *Proxy) Relieved() <-chan struct{} { return p.succession.relieved }

// Done reports whether another process has taken over, and nothing is left here.
func (p *Proxy) Done() bool {
	select {
	case <-p.succession.passed:
		return p.idle()
	default:
		return false
	}
}

// windUp puts the end off for as long as it is of use to clients.
func (p *Proxy) windUp() {
	if p.plain {
		return
	}
	s := p.succession
	s.mu.Lock()
	waits := s.candidates > 0 && !s.passing
	s.mu.Unlock()
	if waits {
		select {
		case <-s.relieved:
		case <-s.free:
		case <-time.After(waitTime):
		}
	}
	s.mu.Lock()
	passing := s.passing
	if s.quiet = !passing; s.quiet && s.candidates == 0 {
		p.tcp.Quieten() // else it has the same listeners
	}
	s.mu.Unlock()
	if passing {
		<-s.passed
	}
	for end := time.Now().Add(lastCalls); p.tcp.Counters().Active > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
}
