package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// Environment variables of the processes that tests start.
const (
	roleEnv = "RELAY_TEST_ROLE"
	argEnv  = "RELAY_TEST_ARG"
)

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "relay":
		runRelay(os.Getenv(argEnv))
	case "server":
		runServer()
	default:
		os.Exit(m.Run())
	}
}

// A child is the test binary in another role.
type child struct {
	pid  int
	addr string
	in   io.WriteCloser
	out  *bufio.Reader
}

// spawn starts a child, until the test ends.
func spawn(t testing.TB, role, arg string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role, argEnv+"="+arg)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // which ends it
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	})
	c := &child{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	c.addr = c.hear(t)
	return c
}

func (c *child) hear(t testing.TB) string {
	t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// ask returns the answer of a child to a command.
func (c *child) ask(t testing.TB, command string) string {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, command); err != nil {
		t.Fatal(err)
	}
	return c.hear(t)
}

func (c *child) counters(t testing.TB) Counters {
	t.Helper()
	var n Counters
	if err := json.Unmarshal([]byte(c.ask(t, "counters")), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// runRelay relays to the address that is the first word of arg, and obeys commands.
// The second word, if any, is the limit of descriptors.
func runRelay(arg string) {
	time.Sleep(time.Nanosecond) // Go's runtime needs a descriptor for its first timer, and panics without
	to, limit, limited := strings.Cut(arg, " ")
	e, err := New(Config{Handler: &silentBook{Target{Addr: netip.MustParseAddrPort(to)}}})
	if err != nil {
		panic(err)
	}
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 2)
	at, err := e.Listen(netip.MustParseAddrPort("127.0.0.1:0"), service.FromPod)
	if err != nil {
		panic(err)
	}
	if limited {
		n, err := strconv.ParseUint(limit, 10, 64)
		if err == nil {
			err = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n})
		}
		if err != nil {
			panic(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	fmt.Println(at)
	go func() {
		obey(e)
		cancel()
	}()
	if err := e.Run(ctx); err != nil {
		panic(err)
	}
}

// obey executes commands until there are no more.
func obey(e *Engine) {
	var taken []int
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "counters":
			text, err := json.Marshal(e.Counters())
			if err != nil {
				panic(err)
			}
			fmt.Println(string(text))
		case "heap":
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			fmt.Println(m.HeapInuse + m.StackInuse)
		case "fill": // take every descriptor, and those that become free in the next moments
			for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
				if fd, err := unix.Open("/dev/null", unix.O_CLOEXEC, 0); err == nil {
					taken = append(taken, fd)
				}
			}
			fmt.Println(len(taken))
		case "free":
			for _, fd := range taken {
				unix.Close(fd)
			}
			taken = nil
			fmt.Println("ok")
		}
	}
}

// A silentBook offers one target and notes nothing.
type silentBook struct{ Target }

type silentTrip struct {
	Target
	asked bool
}

func (b *silentBook) Accepted(_, _ netip.AddrPort, _ service.Origin) Journey {
	return &silentTrip{Target: b.Target}
}

func (t *silentTrip) Next() (Target, bool) {
	if t.asked {
		return Target{}, false
	}
	t.asked = true
	return t.Target, true
}
func (t *silentTrip) Failed(error)     {}
func (t *silentTrip) Connected(Handle) {}
func (t *silentTrip) Closed(Stats)     {}

// runServer answers each request: four bytes with the size of the request, four
// with that of the answer, and the rest of the request.
func runServer() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				panic(err)
			}
			go answer(c)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func answer(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 256<<10)
	for {
		if _, err := io.ReadFull(c, buf[:8]); err != nil {
			return
		}
		size, want := binary.BigEndian.Uint32(buf), binary.BigEndian.Uint32(buf[4:])
		if _, err := io.ReadFull(c, buf[:size-8]); err != nil {
			return
		}
		for want > 0 {
			n := min(int(want), len(buf))
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
			want -= uint32(n)
		}
	}
}
