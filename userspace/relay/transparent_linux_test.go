package relay

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

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
			from, source := through(t, tt.listen, tt.frontend, tt.endpoint, client, func(port netip.AddrPort) {
				foreign := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
					return c.Control(func(fd uintptr) {
						if err := setOptions(int32(fd), []option{transparent(port.Addr())}); err != nil {
							t.Error(err)
						}
					})
				}}
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
	}
}

// through relays one connection with a Source and returns whom the endpoint sees, and
// the Source. Before that it calls prepare, if any, with the Source.
func through(t *testing.T, listen, frontend, endpoint string, client netip.Addr, prepare func(netip.AddrPort)) (from, source netip.AddrPort) {
	l, err := net.Listen("tcp", net.JoinHostPort(endpoint, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	source = netip.AddrPortFrom(client, 40000+uint16(os.Getpid()%1000))
	if prepare != nil {
		source = netip.AddrPortFrom(client, source.Port()+1)
		prepare(source)
	}
	b := &book{targets: []Target{{Addr: l.Addr().(*net.TCPAddr).AddrPort(), Source: source}}}
	_, at := startAt(t, Config{Handler: b, Transparent: true, Mark: 0x77}, listen)
	want := netip.AddrPortFrom(netip.MustParseAddr(frontend), at.Port())
	c := dial(t, want)
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	say(t, c, "hello")
	hear(t, s, "hello")
	if got := b.wait(t, "connected", isUp).frontend; got != want {
		t.Errorf("frontend %v, want %v", got, want)
	}
	return s.RemoteAddr().(*net.TCPAddr).AddrPort(), source
}
