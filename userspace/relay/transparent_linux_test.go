package relay

import (
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const insideEnv = "RELAY_TEST_INSIDE"

// TestTransparent runs TestTransparentInside in a network namespace of its own.
func TestTransparent(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestTransparentInside$", "-test.v")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "--- SKIP") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestTransparentInside accepts what was sent to addresses of others, and connects
// from those of clients.
func TestTransparentInside(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Skip("is run by TestTransparent")
	}
	for _, line := range []string{
		"link set lo up",
		"route add local 203.0.113.0/24 dev lo", "route add local 198.51.100.0/24 dev lo",
		"-6 route add local 2001:db8:113::/64 dev lo", "-6 route add local 2001:db8:51::/64 dev lo",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	for _, tt := range []struct{ name, listen, frontend, client, endpoint string }{
		{"IPv4", "0.0.0.0:0", "203.0.113.5", "198.51.100.1", "127.0.0.1"},
		{"IPv6", "[::]:0", "2001:db8:113::5", "2001:db8:51::1", "::1"},
	} {
		client := netip.MustParseAddr(tt.client)
		t.Run(tt.name+" keeps the port", func(t *testing.T) {
			from, source := through(t, tt.listen, tt.frontend, tt.endpoint, client, nil)
			if from != source {
				t.Errorf("the endpoint sees %v, want %v", from, source)
			}
		})
		t.Run(tt.name+" finds the port taken", func(t *testing.T) {
			from, source := through(t, tt.listen, tt.frontend, tt.endpoint, client, func(port, _ netip.AddrPort) {
				foreign := net.ListenConfig{Control: foreign(t, port)}
				l, err := foreign.Listen(t.Context(), "tcp", port.String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
			})
			if from.Addr() != source.Addr() || from.Port() == source.Port() {
				t.Errorf("the endpoint sees %v, want the address, not the port, of %v", from, source)
			}
		})
		t.Run(tt.name+" finds the connection there", func(t *testing.T) {
			from, source := through(t, tt.listen, tt.frontend, tt.endpoint, client, func(port, endpoint netip.AddrPort) {
				foreign := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(port), Control: foreign(t, port)}
				c, err := foreign.DialContext(t.Context(), "tcp", endpoint.String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
			})
			if from.Addr() != source.Addr() || from.Port() == source.Port() {
				t.Errorf("the endpoint sees %v, want the address, not the port, of %v", from, source)
			}
		})
	}
}

// foreign lets a socket use an address of somebody else.
func foreign(t *testing.T, addr netip.AddrPort) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			reuse := option{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}
			if err := setOptions(int32(fd), []option{transparent(addr.Addr()), reuse}); err != nil {
				t.Error(err)
			}
		})
	}
}

// acceptHello returns the first connection that says hello.
func acceptHello(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	found := make(chan net.Conn)
	for range 2 {
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 5)
			if _, err := io.ReadFull(c, b); err == nil && string(b) == "hello" {
				found <- c
			}
		}()
	}
	select {
	case c := <-found:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("nobody says hello")
	}
	return nil
}

// through relays one connection with a Source and returns whom the endpoint sees, and
// the Source. Before that it calls prepare, if any, with the Source.
func through(t *testing.T, listen, frontend, endpoint string, client netip.Addr, prepare func(source, endpoint netip.AddrPort)) (from, source netip.AddrPort) {
	l, err := net.Listen("tcp", net.JoinHostPort(endpoint, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	source = netip.AddrPortFrom(client, 40000+uint16(os.Getpid()%1000))
	if prepare != nil {
		source = netip.AddrPortFrom(client, netip.MustParseAddrPort(l.Addr().String()).Port()-1000)
		prepare(source, l.Addr().(*net.TCPAddr).AddrPort())
	}
	b := &book{targets: []Target{{Addr: l.Addr().(*net.TCPAddr).AddrPort(), Source: source}}}
	_, at := startAt(t, Config{Handler: b, Transparent: true, Mark: 0x77}, listen)
	want := netip.AddrPortFrom(netip.MustParseAddr(frontend), at.Port())
	c := dial(t, want)
	say(t, c, "hello")
	s := acceptHello(t, l)
	if got := b.wait(t, "connected", isUp).frontend; got != want {
		t.Errorf("frontend %v, want %v", got, want)
	}
	return s.RemoteAddr().(*net.TCPAddr).AddrPort(), source
}
