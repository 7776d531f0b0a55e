//go:build linux

package controlplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// orphanEnv makes the test binary start a child in the folder it names, print
// the child's process id, and hang: see TestChildrenDieWithUs.
const orphanEnv = "FAIRLEAD_TEST_ORPHAN_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(orphanEnv); dir != "" {
		t, err := startThread("")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		p, err := t.start(dir, "sleep", "/bin/sleep", "600")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(p.cmd.Process.Pid)
		<-p.done
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestChildrenDieWithUs(t *testing.T) {
	us := exec.CommandContext(t.Context(), os.Args[0])
	us.Env = append(os.Environ(), orphanEnv+"="+t.TempDir())
	us.Stderr = t.Output()
	out, err := us.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := us.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read the child's process id: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !alive(pid) {
		t.Fatalf("the child %d does not run", pid)
	}
	if err := us.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = us.Wait() // it was killed, and says so

	deadline := time.Now().Add(10 * time.Second)
	for alive(pid) {
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("the child %d outlives its parent", pid)
		}
		time.Sleep(pollInterval)
	}
}

// alive reports whether pid runs. A zombie does not: nobody need be there to
// reap an orphan.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // proc(5): pid (comm) state …
	return !strings.HasPrefix(rest, "Z")
}

func shell(t *testing.T, script string) *process {
	t.Helper()
	th, err := startThread("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(th.close)
	p, err := th.start(t.TempDir(), "script", "/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestStop(t *testing.T) {
	tests := []struct {
		name, script string
		grace        time.Duration
	}{
		{"heeds SIGTERM", `trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done`, time.Minute},
		{"ignores SIGTERM", `trap '' TERM; echo ready; while :; do sleep 0.05; done`, 100 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := shell(t, tt.script)
			if err := p.await(t.Context(), "wait for", logSays(p, "ready")); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if err := p.stop(tt.grace); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("stopping took %v", took)
			}
			if alive(p.cmd.Process.Pid) {
				t.Error("it still runs")
			}
		})
	}
}

func TestStopOfDeadProcessQuotesLog(t *testing.T) {
	p := shell(t, "echo out of cheese; exit 3")
	<-p.done
	err := p.stop(time.Minute)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "out of cheese") {
		t.Errorf("got %v, want the exit status and the log", err)
	}
}

func TestAwaitHeedsContext(t *testing.T) {
	p := shell(t, "sleep 600")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("out of patience"))
	defer cancel()
	err := p.await(ctx, "wait for", logSays(p, "never"))
	if err == nil || !strings.Contains(err.Error(), "out of patience") || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("got %v, want the cause and the last failure", err)
	}
	if err := p.stop(time.Minute); err != nil {
		t.Error(err)
	}
}

func logSays(p *process, want string) func(context.Context) error {
	return func(context.Context) error {
		data, err := os.ReadFile(p.log)
		if err == nil && !strings.Contains(string(data), want) {
			err = errors.New("not yet")
		}
		return err
	}
}
