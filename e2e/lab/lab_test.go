//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/lab"
)

// kernels runs a test on every kind of kernel, one after the other.
func kernels(t *testing.T, test func(*testing.T, *lab.Kernel)) {
	if testing.Short() {
		t.Skip("boots kernels")
	}
	if os.Getenv(lab.Inside) != "" {
		t.Skip("runs on the host")
	}
	for _, name := range []string{"uml", "qemu"} { // the newest differs in what it boots, not in how
		t.Run(name, func(t *testing.T) {
			k, err := lab.Find(t.Context(), name)
			if err != nil && os.Getenv("FAIRLEAD_E2E_REQUIRE") == "1" {
				t.Fatal(err)
			}
			if err != nil {
				t.Skip(err)
			}
			test(t, k)
		})
	}
}

// sh runs a script, and fails the test if that does not come to its end.
func sh(t *testing.T, k *lab.Kernel, j lab.Job, script string) (code int, output string) {
	t.Helper()
	var out strings.Builder
	j.Path, j.Args, j.Output, j.Timeout = "/bin/sh", []string{"-c", script}, &out, 2*time.Minute
	code, err := k.Run(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	return code, out.String()
}

func TestCode(t *testing.T) {
	kernels(t, func(t *testing.T, k *lab.Kernel) {
		for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -9 $$": 137} {
			if got, out := sh(t, k, lab.Job{}, script); got != want || out != "" {
				t.Errorf("%s: got code %d and output %q, want %d and none", script, got, out, want)
			}
		}
	})
}

// lineCounter notes what each Write is.
type lineCounter struct{ writes, whole, bytes int }

func (c *lineCounter) Write(b []byte) (int, error) {
	c.writes++
	c.bytes += len(b)
	if strings.HasSuffix(string(b), "\n") && strings.Count(string(b), "\n") == 1 {
		c.whole++
	}
	return len(b), nil
}

// TestOutput holds that much of it comes back, line by line, and none is lost or
// changed on the way.
func TestOutput(t *testing.T) {
	kernels(t, func(t *testing.T, k *lab.Kernel) {
		const lines = 5000
		var got lineCounter
		_, err := k.Run(t.Context(), lab.Job{
			Path: "/bin/sh", Timeout: 2 * time.Minute, Output: &got,
			Args: []string{"-c", fmt.Sprintf("seq -f 'line %%05g, with a tab\t and an ü' %d", lines)},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := lineCounter{lines, lines, lines * len("line 00001, with a tab\t and an ü\n")}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// TestSees holds what a job is given: arguments, environment, folder, shared
// files, a loopback interface, memory, and IPVS.
func TestSees(t *testing.T) {
	kernels(t, func(t *testing.T, k *lab.Kernel) {
		dir := t.TempDir() // below /tmp as a rule
		file := filepath.Join(dir, "it's a file")
		if err := os.WriteFile(file, []byte("from the host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		code, err := k.Run(t.Context(), lab.Job{
			Path: "/bin/sh", Timeout: 2 * time.Minute, Output: &out, Memory: 700, Dir: dir,
			Env: []string{"SAYS=a 'b' $c", "PATH=/opt/somewhere", "TMPDIR=/nowhere"},
			Args: []string{"-c", `echo "$SAYS"; echo "$1"; pwd; cat "it's a file"; echo "$FAIRLEAD_LAB$TMPDIR"
				cat /sys/class/net/lo/flags; awk '/MemTotal/ {print ($2 > 500000 && $2 < 720000)}' /proc/meminfo
				ls /sys/class/net | tr '\n' ' '; ls /tmp | wc -l; ipvsadm -ln | head -n 1 | cut -c 1-17
				case $PATH in /opt/somewhere:*) echo path;; esac`, "sh", "second $arg"},
		})
		if err != nil || code != 0 {
			t.Fatalf("got code %d, %v", code, err)
		}
		want := strings.Join([]string{
			"a 'b' $c", "second $arg", dir, "from the host", k.Name, "0x9", "1", "lo 1", "IP Virtual Server", "path", "",
		}, "\n")
		if got := out.String(); got != want {
			t.Errorf("got:\n%swant:\n%s", got, want)
		}
	})
}

// TestLeavesNothing writes to where a guest may, and to where it should not, and
// looks for it on the host.
func TestLeavesNothing(t *testing.T) {
	kernels(t, func(t *testing.T, k *lab.Kernel) {
		dir := t.TempDir()
		t.Setenv("TMPDIR", dir) // for what Run itself leaves
		shared := filepath.Join(t.TempDir(), "shared")
		if err := os.WriteFile(shared, []byte("as it was"), 0o644); err != nil {
			t.Fatal(err)
		}
		single := filepath.Join(t.TempDir(), "a file, shared alone")
		if err := os.WriteFile(single, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("fairlead-lab-test-%d", os.Getpid())
		places := []string{"/etc/", "/usr/", "/var/", "/tmp/", "/run/", "/var/tmp/", filepath.Dir(shared) + "/", "/"}
		script := "set -e; " // the first line that cannot be written ends it
		for _, p := range places {
			script += fmt.Sprintf("echo x >%[1]s; grep -q x %[1]s; ", p+name)
		}
		script += fmt.Sprintf("echo y >%s; rm /etc/passwd; ! (echo y >'%s') 2>/dev/null; ! (echo y >/run/lab/job) 2>/dev/null; rm -rf /run/outside/*", shared, single)
		if code, out := sh(t, k, lab.Job{Share: []string{filepath.Dir(shared), single}}, script); code != 0 {
			t.Errorf("writing in the guest: code %d, %s", code, out)
		}
		for _, p := range places {
			if _, err := os.Stat(p + name); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is on the host: %v", p+name, errors.Join(err, os.Remove(p+name)))
			}
		}
		if got, err := os.ReadFile(shared); err != nil || string(got) != "as it was" {
			t.Errorf("shared file: got %q, %v", got, err)
		}
		if _, err := os.Stat("/etc/passwd"); err != nil {
			t.Error(err)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 0 {
			t.Errorf("Run left %v, %v", left, err)
		}
	})
}

// TestGoesDown holds that a guest that panics, or goes away otherwise, is an
// error that quotes the console.
func TestGoesDown(t *testing.T) {
	kernels(t, func(t *testing.T, k *lab.Kernel) {
		for script, want := range map[string]string{
			"echo c >/proc/sysrq-trigger; sleep 100": "sysrq triggered crash",
			"echo o >/proc/sysrq-trigger; sleep 100": "the guest went down",
		} {
			code, err := k.Run(t.Context(), lab.Job{Path: "/bin/sh", Args: []string{"-c", script}, Timeout: 2 * time.Minute})
			down, ok := errors.AsType[*lab.GuestError](err)
			if !ok || code != -1 || !strings.Contains(down.Error(), want) {
				t.Errorf("%s: got code %d and %v, want -1 and an error with %q", script, code, err, want)
			}
		}
	})
}

// TestHangs holds that time limits are kept and that cancelling takes down all
// that was started.
func TestHangs(t *testing.T) {
	kernels(t, func(t *testing.T, k *lab.Kernel) {
		dir := t.TempDir()
		t.Setenv("TMPDIR", dir) // by which these guests are told from those of others
		job := lab.Job{Path: "/bin/sh", Args: []string{"-c", "echo up; sleep 1000 & sleep 1000"}}

		job.Timeout = 500 * time.Millisecond // before the job has begun
		_, err := k.Run(t.Context(), job)
		if err == nil || !strings.Contains(err.Error(), "longer than 500ms") {
			t.Errorf("time limit: got %v", err)
		}

		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		changed := errors.New("changed my mind")
		job.Timeout, job.Output = 0, writerFunc(func(b []byte) (int, error) {
			if len(children(t, dir)) == 0 {
				t.Error("the guest has no processes: nothing is proven by their absence")
			}
			cancel(changed)
			return len(b), nil
		})
		if _, err := k.Run(ctx, job); !errors.Is(err, changed) {
			t.Errorf("cancelled: got %v", err)
		}
		if left := children(t, dir); len(left) > 0 {
			t.Errorf("still there: %v", left)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// children lists the command lines of processes on the host that belong to guests
// with their files in a folder.
func children(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, name := range names {
		// Of processes that have just ended there is nothing to read.
		text, _ := os.ReadFile(name)
		line := strings.ReplaceAll(string(text), "\x00", " ")
		if strings.Contains(line, dir+"/") {
			out = append(out, line)
		}
	}
	return out
}

func TestBadJobs(t *testing.T) {
	kernels(t, func(t *testing.T, k *lab.Kernel) {
		for name, j := range map[string]lab.Job{
			"relative":     {Path: "sh"},
			"not there":    {Path: "/bin/sh", Share: []string{"/tmp/surely/not/there"}},
			"with newline": {Path: "/bin/sh", Share: []string{"/tmp/a\nb"}},
		} {
			if code, err := k.Run(t.Context(), j); err == nil || code != -1 {
				t.Errorf("%s: got code %d and no error", name, code)
			}
		}
		code, err := k.Run(t.Context(), lab.Job{Path: "/no/such/program", Timeout: 2 * time.Minute})
		if code != 127 || err != nil {
			t.Errorf("no program: got code %d, %v, want 127", code, err)
		}
	})
}
