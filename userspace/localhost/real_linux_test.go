package localhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/userspace"
)

// insideEnv says that the process has a network namespace of its own.
const insideEnv = "LOCALHOST_TEST_INSIDE"

// alone runs the rest of a test in a network namespace of its own, where all node
// ports are free. It reports whether this is there.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		for _, line := range []string{"link set lo up", "addr add fd00:1::1/128 dev lo nodad", "addr add fd00:1::2/128 dev lo nodad", "addr add fd00:1::3/128 dev lo nodad"} {
			if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", line, err, out)
			}
		}
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", fmt.Sprintf("-test.short=%t", testing.Short()))
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v:\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

// A stage is a Dataplane with a proxy and endpoints, all real.
type stage struct {
	*Dataplane
	proxy *userspace.Proxy
}

func newStage(t *testing.T) *stage {
	t.Helper()
	cfg := userspace.ProxyConfig{Config: userspace.DefaultConfig()}
	cfg.Log = slog.New(slog.DiscardHandler)
	p, err := userspace.NewPlainProxy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return &stage{newPlane(t, p), p}
}

// endpoint is the kth of a family; the last of four does not exist.
func endpoint(f service.Family, k int) netip.AddrPort {
	if f == service.IPv4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(k)}), 8080)
	}
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00:1::%d", k)), 8080)
}

// serveAll has three endpoints of each family answer with their address, over TCP to
// every line, and over UDP to every datagram.
func serveAll(t *testing.T) {
	t.Helper()
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		for k := 1; k <= 3; k++ {
			at := endpoint(f, k)
			l, err := net.Listen("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			u, err := net.ListenPacket("udp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close(); u.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						for b := make([]byte, 64); ; {
							if _, err := c.Read(b); err != nil {
								return
							}
							if _, err := io.WriteString(c, at.String()); err != nil {
								return
							}
						}
					}()
				}
			}()
			go func() {
				for b := make([]byte, 64); ; {
					_, from, err := u.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = u.WriteTo([]byte(at.String()), from)
				}
			}()
		}
	}
}

// call returns who answers at a place.
func call(at userspace.Place) (netip.AddrPort, error) {
	c, err := net.DialTimeout(at.Protocol.String(), at.Addr.String(), 10*time.Second)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.Close()
	return ask(c)
}

func ask(c net.Conn) (netip.AddrPort, error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "who?"); err != nil {
		return netip.AddrPort{}, err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(string(b[:n]))
}

// numbers are the node ports of the walk; each may be of either protocol or family.
const first, numbers = 30001, 6

func place(proto service.Protocol, f service.Family, n int) userspace.Place {
	lo := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if f == service.IPv6 {
		lo = netip.IPv6Loopback()
	}
	return userspace.Place{Protocol: proto, Addr: netip.AddrPortFrom(lo, uint16(first+n))}
}

// mutate gives a place a random Port, or none. An endpoint that does not exist is
// never the only one, and only of TCP, which notices.
func mutate(rng *rand.Rand, ports map[userspace.Place]*service.Port) {
	proto, f, n := service.Protocol(rng.IntN(2)), service.Family(rng.IntN(2)), rng.IntN(numbers)
	at := place(proto, f, n)
	name := fmt.Sprintf("s%d-%d", n, rng.IntN(2)) // or of another Service than before
	if rng.IntN(5) == 0 {
		delete(ports, at)
		return
	}
	var to []netip.AddrPort
	for k := 1; k <= 3; k++ {
		if rng.IntN(2) == 0 {
			to = append(to, endpoint(f, k))
		}
	}
	verdict := service.Forward
	if len(to) == 0 {
		verdict = service.Reject
	} else if proto == service.TCP && rng.IntN(2) == 0 {
		to = append(to, endpoint(f, 4))
	}
	ports[at] = nodePort(name, proto, f, uint16(first+n), verdict, to...)
}

// TestRealWalk changes Services at random, and calls all node ports after every
// change. Others call all the time.
func TestRealWalk(t *testing.T) {
	if !alone(t) {
		return
	}
	serveAll(t)
	s := newStage(t)
	steps := 150
	if testing.Short() {
		steps = 30
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	done := make(chan struct{})
	var hecklers sync.WaitGroup
	for i := range 3 {
		hecklers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(2+i)))
			for {
				select {
				case <-done:
					return
				default:
					_, _ = call(place(service.Protocol(rng.IntN(2)), service.Family(rng.IntN(2)), rng.IntN(numbers)))
				}
			}
		})
	}
	ports := make(map[userspace.Place]*service.Port)
	answered := 0
	for step := range steps {
		for range 1 + rng.IntN(6) {
			mutate(rng, ports)
		}
		var list []*service.Port
		for _, p := range ports {
			list = append(list, p)
		}
		r, err := s.Sync(t.Context(), snapshot(list...))
		if err != nil || len(r.Deviations) > 0 {
			t.Errorf("step %d: %v, %v", step, r.Deviations, err)
		}
		answered += checkAll(t, step, ports)
		if t.Failed() {
			break
		}
	}
	close(done)
	hecklers.Wait()
	t.Logf("%d calls answered as wanted; %+v", answered, s.proxy.Counts())
	if err := s.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkAll(t, steps, nil)
}

// checkAll calls every place once, and returns how many answer.
func checkAll(t *testing.T, step int, ports map[userspace.Place]*service.Port) (answered int) {
	t.Helper()
	for _, proto := range []service.Protocol{service.TCP, service.UDP} {
		for _, f := range []service.Family{service.IPv4, service.IPv6} {
			for n := range numbers {
				at := place(proto, f, n)
				got, err := call(at)
				var pool service.Pool
				if p := ports[at]; p != nil {
					pool = p.Frontends[0].Routes[service.FromHost].Pool
				}
				is := func(e service.Endpoint) bool { return e.Addr == got }
				switch {
				case pool == nil && !errors.Is(err, unix.ECONNREFUSED):
					t.Errorf("step %d: %v: got %v, %v, want it refused", step, at, got, err)
				case pool != nil && !slices.ContainsFunc(pool, is):
					t.Errorf("step %d: %v: got %v, %v, want one of %v", step, at, got, err, pool)
				case pool != nil:
					answered++
				}
			}
		}
	}
	return answered
}

// TestNoDescriptors: without descriptors some places are not listened at, which is a
// Deviation and no error; callers of the others are reset; and all that passes.
func TestNoDescriptors(t *testing.T) {
	if !alone(t) {
		return
	}
	serveAll(t)
	s := newStage(t)
	const n = 200
	var list []*service.Port
	for i := range n {
		list = append(list, nodePort(fmt.Sprintf("s%03d", i), service.Protocol(i%2), service.IPv4, uint16(first+i), service.Forward, endpoint(service.IPv4, 1)))
	}
	before := limit(t, 120)
	r, err := s.Sync(t.Context(), snapshot(list...))
	if err != nil || r.Added == 0 || len(r.Deviations) != n-r.Added || !strings.Contains(r.Deviations[0].Reason, "too many open files") {
		t.Fatalf("with few descriptors: %d added, %d deviations, %v", r.Added, len(r.Deviations), err)
	}
	limit(t, before)
	if r, err := s.Audit(t.Context()); err != nil || len(r.Deviations) != 0 {
		t.Fatalf("with enough: %v, %v", r.Deviations, err)
	}
	for _, at := range []userspace.Place{place(service.TCP, service.IPv4, 0), place(service.UDP, service.IPv4, n-1)} {
		if got, err := call(at); err != nil || got != endpoint(service.IPv4, 1) {
			t.Errorf("%v: %v, %v", at, got, err)
		}
	}
	c, err := net.Dial("tcp", place(service.TCP, service.IPv4, 0).Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := ask(c); err != nil {
		t.Fatal(err)
	}
	var late []int // clients that have their descriptors already
	for range 8 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		late = append(late, fd)
	}
	limit(t, 300)
	var filler []int
	for fd, err := unix.Dup(0); !errors.Is(err, unix.EMFILE); fd, err = unix.Dup(0) {
		if err != nil {
			t.Fatal(err)
		}
		filler = append(filler, fd)
	}
	for _, fd := range late {
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: first + 2}); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(10 * time.Second); s.proxy.Counts().Shed == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody was shed")
		}
	}
	if _, err := ask(c); err != nil {
		t.Errorf("a connection that was there before: %v", err)
	}
	limit(t, before)
	for _, fd := range slices.Concat(late, filler) {
		unix.Close(fd)
	}
	if got, err := call(place(service.TCP, service.IPv4, 2)); err != nil {
		t.Errorf("afterwards: %v, %v", got, err)
	}
}

// limit sets how many descriptors there may be, and returns how many there could be.
func limit(t *testing.T, n uint64) uint64 {
	t.Helper()
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	old := l.Cur
	l.Cur = n
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	return old
}
