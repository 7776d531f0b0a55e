package main

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// examples is the folder of manifests that the README and the demo use.
var examples = filepath.Join("..", "..", "docs", "examples")

// nodeArgs describe node n1 of the examples.
func nodeArgs() []string {
	return []string{
		"--hostname-override=n1", "--node-addresses=172.18.0.11,fd00:172:18::11",
		"--cluster-cidr=10.244.0.0/16,fd00:10:244::/48",
	}
}

// invoke runs a subcommand and returns its exit status and outputs.
func invoke(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = command{out: &o, err: &e}.main(context.Background(), args)
	return code, o.String(), e.String()
}

func TestPlanExamples(t *testing.T) {
	args := append([]string{"plan", "-f", examples}, nodeArgs()...)
	code, out, errs := invoke(args...)
	if code != 0 || errs != "" {
		t.Fatalf("exit status %d, errors:\n%s", code, errs)
	}
	if _, again, _ := invoke(args...); again != out {
		t.Error("two plans of the same manifests differ")
	}
	v4, v6, ok := strings.Cut(out, "# IPv6 plan for n1: 1 ports")
	if !ok || !strings.HasPrefix(v4, "# IPv4 plan for n1: 3 ports") {
		t.Fatalf("no header for each family:\n%s", out)
	}
	for family, text := range map[xt.Family]string{xt.IPv4: v4, xt.IPv6: v6[strings.Index(v6, "\n")+1:]} {
		if err := xt.NewFake().RestoreText(family, text); err != nil {
			t.Errorf("%s: the tools would refuse the plan: %v", family, err)
		}
	}
	if _, out, _ := invoke(append(args, "--family=ipv6")...); strings.Contains(out, "10.96.0.10") || !strings.Contains(out, "fd00:10:96::10") {
		t.Error("--family=ipv6 prints something else")
	}
}

func TestPlanIPVS(t *testing.T) {
	args := append([]string{"plan", "-f", examples, "--dataplane=ipvs"}, nodeArgs()...)
	code, out, errs := invoke(args...)
	if code != 0 || errs != "" {
		t.Fatalf("exit status %d, errors:\n%s", code, errs)
	}
	if _, again, _ := invoke(args...); again != out {
		t.Error("two plans of the same manifests differ")
	}
	for _, want := range []string{
		"# ipvs plan for n1: 4 ports, ", "-A -t 10.96.0.10:80 -s rr\n", "-r [fd00:10:244:2::2]:8080 -m -w 1\n",
		"add FL4-VIP 203.0.113.7,tcp:443\n", "route add local 10.96.0.10 dev lo table 17996\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing with %q in:\n%s", want, out)
		}
	}
	for more, want := range map[string]struct{ with, without string }{
		"--family=ipv6":                       {"[fd00:10:96::10]:80", "10.96.0.10"},
		"--ipvs-scheduler=wlc":                {"-A -t 10.96.0.10:80 -s wlc\n", "-s rr"},
		"--ipvs-exclude-cidrs=203.0.113.0/24": {"10.96.0.10:80", "203.0.113.7"},
		"--ipvs-vip-mode=device":              {"10.96.0.10", "table 17996"},
	} {
		_, out, _ := invoke(append(args, more)...)
		if !strings.Contains(out, want.with) || strings.Contains(out, want.without) {
			t.Errorf("%s: want %q and not %q in:\n%s", more, want.with, want.without, out)
		}
	}
}

func TestPlanGoesOnAfterErrors(t *testing.T) {
	dir := t.TempDir()
	good, err := os.ReadFile(filepath.Join(examples, "nodeport-local.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	bad := "apiVersion: v1\nkind: Service\nmetadata: {name: broken, namespace: shop}\nspec:\n  clusterIP: 10.96.0.99\n  prots: []\n"
	odd := "apiVersion: v1\nkind: Service\nmetadata: {name: odd, namespace: shop}\nspec:\n  clusterIP: 10.96.0.300\n  ports: [{port: 80}]\n"
	write(t, filepath.Join(dir, "a.yaml"), bad+"---\n"+odd)
	write(t, filepath.Join(dir, "b.yaml"), string(good))
	code, out, errs := invoke(append([]string{"plan", "-f", dir}, nodeArgs()...)...)
	if code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
	for _, want := range []string{"a.yaml:6: ", "prots", "a.yaml:8: ", "10.96.0.300"} {
		if !strings.Contains(errs, want) {
			t.Errorf("errors without %q:\n%s", want, errs)
		}
	}
	if !strings.Contains(out, "10.244.1.3:8081") {
		t.Errorf("the plan of the good manifest is missing:\n%s", out)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTrace(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
	}{
		{"--from pod --to 10.96.0.10:80", []string{
			"outcome  forward", "cluster IP of shop/web:http/tcp/IPv4", "a pod on this node",
			"endpoint 10.244.1.2:8080\n", "endpoint 10.244.2.2:8080\n", "nat    -A FL-SERVICES", "--to-destination", "1 other way",
		}},
		{"--from host --to [fd00:10:96::10]:80 --all", []string{
			"from fd00:172:18::11", "this node itself", "endpoint [fd00:10:244:1::2]:8080, masqueraded\n",
			"= accepted, destination [fd00:10:244:2::2]:8080, masqueraded",
		}},
		{"--from outside --to 172.18.0.11:30080", []string{"node port of shop/cart", "endpoint 10.244.1.3:8081\n", "= accepted, destination 10.244.1.3:8081\n"}},
		{"--from 198.51.100.9 --to 203.0.113.7:443", []string{"outcome  drop", "source ranges", "= dropped", "-j DROP"}},
		{"--from 10.244.1.2 --to 10.96.0.10:80", []string{"endpoint 10.244.1.2:8080, masqueraded", "endpoint 10.244.2.2:8080\n"}},
		{"--from pod --to 10.96.0.10:81", []string{"outcome  reject", "= rejected", "-j REJECT"}},
		{"--from pod --to 10.96.0.10 --proto icmp", []string{"outcome  reject", "icmp from"}},
		{"--from pod --to 10.96.0.10:80 --proto udp", []string{"outcome  reject"}},
		{"--from pod --to 192.0.2.1:80", []string{"outcome  pass", "belongs to no Service", "= accepted\n"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := slices.Concat([]string{"trace", "-f", examples}, nodeArgs(), strings.Fields(c.args))
			code, out, errs := invoke(args...)
			if code != 0 || errs != "" {
				t.Fatalf("exit status %d, errors:\n%s", code, errs)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("nothing with %q in:\n%s", w, out)
				}
			}
			if strings.Contains(out, "bug") {
				t.Errorf("the rules disagree with what was decided:\n%s", out)
			}
		})
	}
}

func TestTraceErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--from pod --to 10.96.0.10":                       `--to: "10.96.0.10" is not ADDR:PORT`,
		"--from nobody --to 10.96.0.10:80":                 `--from: "nobody"`,
		"--from fd00::1 --to 10.96.0.10:80":                "different families",
		"--from pod --to 10.96.0.10:80 --proto gre":        "--proto: ",
		"--from host --to 10.96.0.10:80":                   "--node-addresses",
		"--from pod --to 10.96.0.10:80 --cluster-cidr=":    "pods cannot be told",
		"--from pod --to 10.96.0.10:80 --node-addresses=x": "--node-addresses: ",
	} {
		t.Run(args, func(t *testing.T) {
			code, _, errs := invoke(slices.Concat([]string{"trace", "-f", examples, "--cluster-cidr=10.244.0.0/16"}, strings.Fields(args))...)
			if code != 2 || !strings.Contains(errs, want) {
				t.Errorf("exit status %d, errors %q, want 2 and %q", code, errs, want)
			}
		})
	}
}

// hop and result are a way of a packet, as decided and as done.
func hop(addr string, masq bool) service.Hop {
	return service.Hop{Endpoint: service.Endpoint{Addr: netip.MustParseAddrPort(addr)}, Masquerade: masq}
}

func result(addr string, masq bool) xt.Result {
	return xt.Result{DNAT: netip.MustParseAddrPort(addr), Masqueraded: masq}
}

func TestTraceSeesDisagreement(t *testing.T) {
	one := service.Outcome{Verdict: service.Forward, Hops: []service.Hop{hop("10.0.0.1:80", false)}}
	two := service.Outcome{Verdict: service.Forward, Hops: []service.Hop{hop("10.0.0.1:80", true), hop("10.0.0.2:80", true)}}
	for _, c := range []struct {
		name    string
		results []xt.Result
		want    service.Outcome
		same    bool
	}{
		{"both pass", []xt.Result{{}}, service.Outcome{}, true},
		{"rules drop", []xt.Result{{Verdict: xt.Dropped}}, service.Outcome{Verdict: service.Reject}, false},
		{"one too many", []xt.Result{result("10.0.0.1:80", false), result("10.0.0.2:80", false)}, one, false},
		{"one too few", []xt.Result{result("10.0.0.1:80", true)}, two, false},
		{"masqueraded", []xt.Result{result("10.0.0.1:80", true)}, one, false},
		{"one way is dropped", []xt.Result{result("10.0.0.1:80", false), {Verdict: xt.Dropped}}, one, false},
		{"another order", []xt.Result{result("10.0.0.2:80", true), result("10.0.0.1:80", true), result("10.0.0.1:80", true)}, two, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := sameOutcome(outcome(c.results), c.want); got != c.same {
				t.Errorf("same is %v, want %v", got, c.same)
			}
		})
	}
}

// TestTraceIPVS is TestTrace for ipvs mode.
func TestTraceIPVS(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
	}{
		{"--from pod --to 10.96.0.10:80", []string{
			"outcome  forward", "endpoint 10.244.1.2:8080\n", "endpoint 10.244.2.2:8080\n", "1 other way",
			"mangle -A FL-NEW -m set --match-set FL4-VIP dst,dst", "  set FL4-VIP\n", "route to 10.96.0.10", "  virtual server tcp 10.96.0.10:80\n",
		}},
		{"--from host --to [fd00:10:96::10]:80 --all", []string{
			"endpoint [fd00:10:244:1::2]:8080, masqueraded\n", "= accepted, destination [fd00:10:244:2::2]:8080, masqueraded",
			"  set FL6-MASQX\n", "  virtual server tcp [fd00:10:96::10]:80\n",
		}},
		{"--from outside --to 172.18.0.11:30080", []string{"endpoint 10.244.1.3:8081\n", "  virtual server tcp 172.18.0.11:30080\n"}},
		{"--from host --to 172.18.0.11:30080", []string{"  set FL4-SHORT\n", "--to 240.0.0.0/4", "  virtual server tcp 252.18.0.11:30080\n"}},
		{"--from 198.51.100.9 --to 203.0.113.7:443", []string{"outcome  drop", "= dropped", "  set FL4-FW\n"}},
		{"--from pod --to 10.96.0.10:81", []string{"outcome  reject", "= rejected", "  set FL4-CLUSTER\n"}},
		{"--from pod --to 10.96.0.10 --proto icmp", []string{"outcome  reject", "= accepted\n", "In ipvs mode the node itself answers pings"}},
		{"--from pod --to 203.0.113.7 --proto icmp --ipvs-vip-mode=device", []string{"outcome  pass", "= accepted\n"}},
		{"--from pod --to 10.96.0.10:80 --ipvs-vip-mode=device", []string{"endpoint 10.244.1.2:8080\n", "  virtual server tcp 10.96.0.10:80\n"}},
		{"--from pod --to 192.0.2.1:80", []string{"outcome  pass", "= accepted\n"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := slices.Concat([]string{"trace", "-f", examples, "--dataplane=ipvs"}, nodeArgs(), strings.Fields(c.args))
			code, out, errs := invoke(args...)
			if code != 0 || errs != "" {
				t.Fatalf("exit status %d, errors:\n%s\n%s", code, errs, out)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("nothing with %q in:\n%s", w, out)
				}
			}
		})
	}
}

// TestTraceCorpus traces every flow of the corpus: the outcome is the expected
// one, and what each dataplane makes of it agrees.
func TestTraceCorpus(t *testing.T) {
	device := ipvsConfig{Scheduler: "rr", VIPMode: ipvs.Device}
	for name, simulate := range map[string]simulator{
		"iptables":    simulateIptables(iptablesConfig(&flags{MasqueradeBit: 14})),
		"ipvs":        simulateIPVS(ipvsConfig{Scheduler: "rr"}.plan(14)),
		"ipvs device": simulateIPVS(device.plan(14)),
	} {
		t.Run(name, func(t *testing.T) { traceCorpus(t, simulate, name != "iptables") })
	}
}

// traceCorpus leaves node ports at 127.0.0.1 out on request.
func traceCorpus(t *testing.T, simulate simulator, noLocalhost bool) {
	n := 0
	for c := range servicetest.Corpus() {
		for i, snap := range c.Snapshots(t) {
			for _, f := range c.Steps[i].Flows {
				if noLocalhost && f.Flow.Dst.Addr().IsLoopback() {
					continue
				}
				var out bytes.Buffer
				n++
				err := (command{out: &out}).explain(snap, simulate, f.Flow, true)
				if err != nil && !errors.Is(err, errReported) {
					t.Fatalf("%s.txtar:%d: %v", c.Name, f.Line, err)
				}
				if text := out.String(); err != nil || !strings.Contains(text, "outcome  "+f.Want.Verdict.String()+"\n") {
					t.Errorf("%s.txtar:%d: %s\n%s", c.Name, f.Line, f.Text, text)
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d flows in the corpus", n)
	}
}
