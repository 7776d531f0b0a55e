//go:build linux

package netns_test

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// TestProcess runs shells in a node.
func TestProcess(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	n1 := c.Nodes[0]
	out, err := n1.Output(t.Context(), "sh", "-c", "cat /proc/net/if_inet6; echo noise >&2")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "fd000172001800000000000000000011") || strings.Contains(out, "noise") {
		t.Errorf("addresses of n1: got %q, want its own and no noise", out)
	}
	if _, err := n1.Output(t.Context(), "sh", "-c", "echo broken >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("program that fails: got %v, want its standard error", err)
	}
	if _, err := n1.Output(t.Context(), "/no/such/program"); err == nil {
		t.Error("program that is not there: got no error")
	}
	p := n1.Command(t.Context(), "sh", "-c", "trap 'echo bye >&2; exit 7' TERM; echo ready; while :; do sleep 0.01; done")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitOutput(t.Context(), "ready"); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(5 * time.Second); err == nil || p.Cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("stop: got %v, want exit code 7", err)
	}
	if got, want := p.Output(), "ready\nbye\n"; got != want || p.Stdout() != "ready\n" || p.Stderr() != "bye\n" {
		t.Errorf("output: got %q, %q, %q, want %q", got, p.Stdout(), p.Stderr(), want)
	}
	if err := p.WaitOutput(t.Context(), "never"); err == nil {
		t.Error("wait for what a program never wrote: got no error")
	}
	if err := p.Kill(); err != nil {
		t.Errorf("kill what has ended: got %v", err)
	}
}

// TestProcessGroup kills a program that ignores SIGTERM, with its children.
func TestProcessGroup(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	p := c.Nodes[0].Command(t.Context(), "sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitOutput(t.Context(), "\n"); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(short); err == nil || !strings.Contains(err.Error(), "SIGTERM") {
		t.Errorf("stop: got %v, want an error about SIGTERM", err)
	}
	child := strings.TrimSpace(p.Output())
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		stat, err := os.ReadFile("/proc/" + child + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break // gone, or dead and waiting for whoever adopted it
		}
		if time.Now().After(deadline) {
			t.Fatalf("child %s is still there: %s", child, stat)
		}
	}
	if got := p.Cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != syscall.SIGKILL {
		t.Errorf("signal: got %v, want SIGKILL", got)
	}
}

// TestDo checks that threads are in the namespace during Do, and only then.
func TestDo(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 1})
	self := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		return link
	}
	var wg sync.WaitGroup
	home := self()
	for range 50 {
		wg.Go(func() {
			err := c.Router.Do(func() error {
				outer := self()
				inner := ""
				err := c.Client.Do(func() error { inner = self(); return nil })
				if outer == home || inner == home || outer == inner || self() != outer {
					t.Errorf("namespaces: got home %s, outer %s, inner %s, want three", home, outer, inner)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			if got := self(); got != home {
				t.Errorf("after Do: got %s, want %s", got, home)
			}
		})
	}
	wg.Wait()
	exited := make(chan bool, 1)
	go func() {
		defer close(exited)
		c.Router.Do(func() error { runtime.Goexit(); return nil })
		exited <- false
	}()
	if _, returned := <-exited; returned {
		t.Error("Do returned though its function made the goroutine exit")
	}
}

func TestSysctl(t *testing.T) {
	c := newCluster(t, netns.Config{Nodes: 2})
	const key = "net/ipv4/conf/eth0/rp_filter"
	if err := c.Nodes[0].SetSysctl(key, "2"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"2", "0"} {
		if got, err := c.Nodes[i].Sysctl(key); got != want || err != nil {
			t.Errorf("%s of %s: got %q, %v, want %q", key, c.Nodes[i].Name(), got, err, want)
		}
	}
	if err := c.Nodes[0].SetSysctl("net/no/such", "1"); err == nil {
		t.Error("sysctl that is not there: got no error")
	}
}
