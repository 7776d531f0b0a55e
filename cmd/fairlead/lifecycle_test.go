package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control"
)

// TestLingering: a process with a grace tells load balancers first and ends later;
// one without, or one that fails meanwhile, ends at once.
func TestLingering(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name  string
		grace time.Duration
		fail  time.Duration // after the signal; 0 means never
		took  time.Duration
	}{
		{"no grace", 0, 0, 0},
		{"grace", 20 * time.Second, 0, 20 * time.Second},
		{"failure in the grace", 20 * time.Second, 5 * time.Second, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProcess(&flags{Lifecycle: lifecycleFlags{ShutdownGrace: c.grace}}, config{}, slog.New(slog.DiscardHandler))
				health := control.NewHealth(time.Minute, nil)
				p.health.Store(health)
				ctx, signal := context.WithCancel(t.Context())
				inner, cancel := p.lingering(ctx)
				time.Sleep(time.Minute)
				synctest.Wait()
				if inner.Err() != nil {
					t.Fatal("ended before anybody asked for it")
				}
				signal()
				start := time.Now()
				if c.fail > 0 {
					time.AfterFunc(c.fail, func() { cancel(broken) })
				}
				synctest.Wait()
				if want := c.grace > 0; (statusOf(health, "/healthz") == 503) != want || statusOf(health, "/livez") != 200 {
					t.Errorf("/healthz answers %d and /livez %d, want the first to fail: %v",
						statusOf(health, "/healthz"), statusOf(health, "/livez"), want)
				}
				<-inner.Done()
				if took := time.Since(start); took != c.took {
					t.Errorf("ended after %s, want %s", took, c.took)
				}
				cancel(nil)
				if got := errors.Is(context.Cause(inner), broken); got != (c.fail > 0) {
					t.Errorf("the cause is %v", context.Cause(inner))
				}
				synctest.Wait()
			})
		})
	}
}

// statusOf asks the health server of a process.
func statusOf(h *control.Health, page string) int {
	w := httptest.NewRecorder()
	h.Handler(control.NewMetrics(nil, "")).ServeHTTP(w, httptest.NewRequest(http.MethodGet, page, nil))
	return w.Code
}

func TestOOMScore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "oom_score_adj")
	if err := writeOOMScore(path, -999); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	write(t, path, "0\n")
	for _, score := range []int{-999, -999, 1000} {
		if err := writeOOMScore(path, score); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "1000" {
		t.Errorf("the file has %q, %v, want 1000", got, err)
	}
}

func TestMismatches(t *testing.T) {
	cidr := func(list ...string) (out [service.NumFamilies]netip.Prefix) {
		for _, p := range prefixes(list...) {
			out[service.FamilyOf(p.Addr())] = p
		}
		return out
	}
	both, six := []service.Family{service.IPv4, service.IPv6}, []service.Family{service.IPv6}
	for _, c := range []struct {
		name     string
		families []service.Family
		change   func(*nodeState, *config)
		fatal    string
		warnings []string // parts of them
	}{
		{"all given", both, func(*nodeState, *config) {}, "", nil},
		{"no cluster CIDR", both, func(s *nodeState, _ *config) { s.Config.ClusterCIDRs = cidr() }, "", []string{"pods are not told"}},
		{"cluster CIDR of the second family", both, func(s *nodeState, _ *config) { s.Config.ClusterCIDRs = cidr("fd00:10:244::/48") }, "", []string{"over IPv4"}},
		{"cluster CIDR of the family that is not served", six, func(s *nodeState, _ *config) { s.Config.ClusterCIDRs = cidr("10.244.0.0/16") }, "only IPv6 is served", nil},
		{"pod CIDRs of the second family", both, func(s *nodeState, _ *config) {
			s.Config.Detect, s.Info.PodCIDRs = detectNodeCIDR, prefixes("fd00:10:244:1::/64")
		}, "pod CIDRs of Node n1", nil},
		{"pod CIDRs of the first", both, func(s *nodeState, _ *config) {
			s.Config.Detect, s.Info.PodCIDRs = detectNodeCIDR, prefixes("10.244.1.0/24")
		}, "", nil},
		{"by interface", both, func(s *nodeState, _ *config) { s.Config.Detect, s.Config.ClusterCIDRs = detectBridge, cidr() }, "", nil},
		{"node ports everywhere", both, func(s *nodeState, _ *config) { s.Config.PortAddrs, s.Config.PortPrimary = everywhere(), false }, "", []string{"nodeport-addresses"}},
		{"servers of the other family", six, func(_ *nodeState, c *config) { c.Healthz, c.Metrics = "172.18.0.11:1", "127.0.0.1:2" }, "", []string{"healthz", "metrics"}},
		{"servers at no address in particular", six, func(_ *nodeState, c *config) { c.Healthz = "0.0.0.0:1" }, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, cfg := knownNode(), config{}
			s.Config.PortPrimary, s.Config.ClusterCIDRs = true, cidr("10.244.0.0/16", "fd00:10:244::/48")
			c.change(&s, &cfg)
			warnings, fatal := mismatches(s, c.families, cfg)
			if (fatal == nil) != (c.fatal == "") || fatal != nil && !strings.Contains(fatal.Error(), c.fatal) {
				t.Errorf("fatal is %v, want %q", fatal, c.fatal)
			}
			if len(warnings) != len(c.warnings) {
				t.Fatalf("warnings are %q, want %q", warnings, c.warnings)
			}
			for i, w := range c.warnings {
				if !strings.Contains(warnings[i], w) {
					t.Errorf("warning %q, want %q in it", warnings[i], w)
				}
			}
		})
	}
}

func TestNoIPv6(t *testing.T) {
	root := t.TempDir()
	check := func(when, want string) {
		t.Helper()
		if err := noIPv6(root); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", when, err, want)
		}
	}
	check("an empty machine", "if_inet6")
	for _, dir := range []string{"proc/net", "proc/sys/net/ipv6/conf/all"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "proc/net/if_inet6"), "")
	check("no setting", "")
	off := filepath.Join(root, "proc/sys/net/ipv6/conf/all/disable_ipv6")
	write(t, off, "0\n")
	check("switched on", "")
	write(t, off, "1\n")
	check("switched off", "switched off")
}
