package relay

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Environment variables of the benchmark.
const (
	benchEnv = "RELAY_BENCH" // what to run: "ping solo conn bulk idle"
	timeEnv  = "RELAY_BENCH_TIME"
	turnsEnv = "RELAY_BENCH_ROUNDS"
)

// A load makes requests on its connections for a while.
type load struct {
	name    string
	conns   int
	request int
	answer  uint32
	fresh   bool // a connection for each request
}

// run returns how many requests were answered.
func (l load) run(t testing.TB, addr string, d time.Duration) int {
	var done atomic.Int64
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for range l.conns {
		wg.Go(func() {
			var c net.Conn
			req, buf := make([]byte, l.request), make([]byte, 256<<10)
			binary.BigEndian.PutUint32(req, uint32(l.request))
			binary.BigEndian.PutUint32(req[4:], l.answer)
			for time.Now().Before(end) {
				var err error
				if c == nil {
					if c, err = net.Dial("tcp", addr); err != nil {
						t.Error(err)
						return
					}
				}
				if _, err = c.Write(req); err != nil {
					t.Error(err)
					return
				}
				for left := int(l.answer); left > 0; {
					n, err := c.Read(buf[:min(left, len(buf))])
					if err != nil {
						t.Error(err)
						return
					}
					left -= n
				}
				done.Add(1)
				if l.fresh {
					c.Close()
					c = nil
				}
			}
			if c != nil {
				c.Close()
			}
		})
	}
	wg.Wait()
	return int(done.Load())
}

// cpuTime returns what a process has used.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// haproxy starts one, in mode tcp, and returns its address.
func haproxy(t testing.TB, to string) (pid int, addr string) {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("haproxy is not installed")
	}
	addr = "127.0.0.1:" + strconv.Itoa(20000+os.Getpid()%10000)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf(`global
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option splice-auto
  option splice-request
  option splice-response
listen bench
  bind %s
  server s %s
`, addr, to)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-db", "-f", file)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, "haproxy listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return cmd.Process.Pid, addr
}

// TestBench compares the processor time of this relay with HAProxy's, for the same
// load, in turns. It is no Benchmark because what it measures is not its own time.
func TestBench(t *testing.T) {
	what := os.Getenv(benchEnv)
	if what == "" {
		t.Skip("takes a while: set " + benchEnv + " to some of ping, solo, conn, bulk")
	}
	length, err := time.ParseDuration(os.Getenv(timeEnv))
	if err != nil {
		length = 2 * time.Second
	}
	rounds, err := strconv.Atoi(os.Getenv(turnsEnv))
	if err != nil {
		rounds = 3
	}
	server := spawn(t, "server", "")
	relay := spawn(t, "relay", server.addr)
	haproxyPID, other := haproxy(t, server.addr)
	for _, l := range []load{
		{"ping", 64, 1 << 10, 1 << 10, false},
		{"solo", 1, 1 << 10, 1 << 10, false},
		{"conn", 32, 1 << 10, 1 << 10, true},
		{"bulk", 4, 8, 64 << 20, false},
	} {
		if !strings.Contains(what, l.name) {
			continue
		}
		sum := map[string]float64{}
		for range rounds {
			for _, p := range []struct {
				name, addr string
				pid        int
			}{
				{"direct", server.addr, server.pid}, {"relay", relay.addr, relay.pid}, {"haproxy", other, haproxyPID},
			} {
				before := cpuTime(t, p.pid)
				began := time.Now()
				n := l.run(t, p.addr, length)
				rate := float64(n) / time.Since(began).Seconds()
				cpu := float64(cpuTime(t, p.pid)-before) / float64(n)
				if l.name == "bulk" { // 16 are a GiB
					t.Logf("%s %-8s %6.2f GiB/s, %7.1f ms of CPU per GiB", l.name, p.name, rate/16, cpu*16/1e6)
				} else {
					t.Logf("%s %-8s %8.0f req/s, %7.2f us of CPU per request", l.name, p.name, rate, cpu/1e3)
				}
				sum[p.name] += cpu
			}
		}
		t.Logf("%s: CPU of the relay / CPU of haproxy = %.3f", l.name, sum["relay"]/sum["haproxy"])
	}
}

// TestIdle measures what a connection costs that does nothing.
func TestIdle(t *testing.T) {
	if !strings.Contains(os.Getenv(benchEnv), "idle") {
		t.Skip("needs 20 000 descriptors: set " + benchEnv + " to idle")
	}
	conns := 10_000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	conns = min(conns, int(limit.Max-100)/2) // the relay needs two for each
	server := spawn(t, "server", "")
	relay := spawn(t, "relay", server.addr)
	empty := relay.ask(t, "heap")
	buf := make([]byte, 1<<10)
	binary.BigEndian.PutUint32(buf, 1<<10)
	binary.BigEndian.PutUint32(buf[4:], 1<<10)
	for range conns {
		c, err := net.Dial("tcp", relay.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1<<10)); err != nil {
			t.Fatal(err)
		}
	}
	full := relay.ask(t, "heap")
	before, err1 := strconv.Atoi(empty)
	after, err2 := strconv.Atoi(full)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	per := (after - before) / conns
	t.Logf("%d bytes for each of %d connections", per, conns)
	if per > 1<<10 {
		t.Error("that is too much")
	}
}
