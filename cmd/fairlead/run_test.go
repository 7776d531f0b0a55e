package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/sysctl"
)

// A fakeEngine is the iptables dataplane with the kernel in memory.
type fakeEngine struct {
	cfg     engineConfig
	kernel  *xt.Fake
	missing [service.NumFamilies]error
}

func (e *fakeEngine) unusable() [service.NumFamilies]error { return e.missing }

func (e *fakeEngine) sysctls(*service.Node, []service.Family) []sysctl.Setting { return nil }

func (e *fakeEngine) open(families []service.Family) (service.Dataplane, error) {
	cfg := iptablesConfig(e.cfg.Flags)
	cfg.Log = e.cfg.Log
	for _, f := range families {
		cfg.Families = append(cfg.Families, xtFamily(f))
	}
	return iptables.New(cfg, e.kernel, iptables.NewMetrics(e.cfg.Registry))
}

func (e *fakeEngine) watch(context.Context, func()) error { return nil }

// A fakeRun is the whole program, running in this process.
type fakeRun struct {
	kernel    *xt.Fake
	committed chan struct{} // gets a token after tables were written
	ended     chan error
	stop      context.CancelFunc
}

// startRun starts the program with a folder of manifests.
func startRun(t *testing.T, dir string, missing [service.NumFamilies]error, args ...string) *fakeRun {
	t.Helper()
	r := &fakeRun{kernel: xt.NewFake(), committed: make(chan struct{}, 1), ended: make(chan error, 1)}
	r.kernel.Fail = func(op string) error {
		if strings.HasPrefix(op, "restored ") {
			select {
			case r.committed <- struct{}{}:
			default:
			}
		}
		return nil
	}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	p := testProcess(t, dir, args...)
	go func() {
		r.ended <- p.run(ctx, func(_ context.Context, c engineConfig) (engine, error) {
			return &fakeEngine{cfg: c, kernel: r.kernel, missing: missing}, nil
		})
	}()
	return r
}

// testProcess returns the program for node n1, which leaves connection tracking and
// ports alone.
func testProcess(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	f, _ := parseFlags(t, append([]string{
		"--manifests=" + dir, "--hostname-override=n1", "--bind-address=172.18.0.11", "--cluster-cidr=10.244.0.0/16",
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--healthz-bind-address=", "--metrics-bind-address=", "--oom-score-adj=0", "--status-socket=",
	}, args...)...)
	cfg, err := f.config()
	if err != nil {
		t.Fatal(err)
	}
	return newProcess(f, cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
}

// await waits until the kernel satisfies ok.
func (r *fakeRun) await(t *testing.T, what string, ok func(dump string) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case <-r.committed:
			if ok(r.kernel.Dump()) {
				return
			}
		case err := <-r.ended:
			t.Fatalf("%s: the program has ended: %v", what, err)
		case <-deadline:
			t.Fatalf("%s: not within half a minute; the kernel has\n%s", what, r.kernel.Dump())
		}
	}
}

func TestRunFollowsManifests(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(examples)); err != nil {
		t.Fatal(err)
	}
	healthz := freePort(t)
	r := startRun(t, dir, [service.NumFamilies]error{}, "--healthz-bind-address="+healthz)
	r.await(t, "the examples are put in force", func(d string) bool {
		return strings.Contains(d, "10.244.1.3:8081") && strings.Contains(d, "[fd00:10:244:1::2]:8080")
	})
	resp, err := http.Get("http://" + healthz + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/healthz answers %s", resp.Status)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}

	old, err := os.ReadFile(filepath.Join(dir, "nodeport-local.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	draft := filepath.Join(dir, ".draft")
	write(t, draft, strings.ReplaceAll(string(old), "10.244.1.3", "10.244.1.9"))
	if err := os.Rename(draft, filepath.Join(dir, "nodeport-local.yaml")); err != nil {
		t.Fatal(err)
	}
	r.await(t, "a change is followed", func(d string) bool {
		return strings.Contains(d, "10.244.1.9:8081") && !strings.Contains(d, "10.244.1.3:8081")
	})

	before := r.kernel.Dump()
	r.stop()
	if err := <-r.ended; err != nil {
		t.Errorf("told to stop, it ended with %v", err)
	}
	if r.kernel.Dump() != before {
		t.Error("the rules did not stay in place")
	}
}

// freePort returns an address at which nobody listens just now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestRunWithOneFamily(t *testing.T) {
	r := startRun(t, examples, [service.NumFamilies]error{service.IPv6: errors.New("no ip6tables")})
	r.await(t, "IPv4 is put in force", func(d string) bool { return strings.Contains(d, "10.244.1.3:8081") })
	if strings.Contains(r.kernel.Dump(), "fd00:10:244:1::2") {
		t.Error("IPv6 rules were written although IPv6 is not usable")
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// TestRunInitOnly ends before anything is put in force.
func TestRunInitOnly(t *testing.T) {
	r := startRun(t, examples, [service.NumFamilies]error{}, "--init-only")
	select {
	case err := <-r.ended:
		if !errors.Is(err, errInitialized) {
			t.Errorf("ended with %v, want %v", err, errInitialized)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("still running after half a minute")
	}
	if d := r.kernel.Dump(); d != xt.NewFake().Dump() {
		t.Errorf("the kernel was changed:\n%s", d)
	}
}

func TestRunFails(t *testing.T) {
	for _, c := range []struct {
		name    string
		dir     string
		missing [service.NumFamilies]error
		args    []string
		want    string
	}{
		{"no family of the node's address", examples, [service.NumFamilies]error{errors.New("no iptables")}, nil, "no iptables"},
		{"no folder", filepath.Join(examples, "nope"), [service.NumFamilies]error{}, nil, "nope"},
		{"no Node with pod CIDRs", examples, [service.NumFamilies]error{}, []string{"--detect-local-mode=NodeCIDR"}, "pod CIDRs"},
		{"address in use", examples, [service.NumFamilies]error{}, []string{"--bind-address-hard-fail", "--healthz-bind-address=192.0.2.1:1"}, "healthz"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startRun(t, c.dir, c.missing, c.args...)
			defer r.stop()
			select {
			case err := <-r.ended:
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("ended with %v, want something with %q", err, c.want)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("still running after half a minute")
			}
		})
	}
}
