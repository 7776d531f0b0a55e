package main

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
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

// TestTraceCorpus traces every flow of the corpus: the outcome is the expected
// one, and the rules agree.
func TestTraceCorpus(t *testing.T) {
	n := 0
	for c := range servicetest.Corpus() {
		for i, snap := range c.Snapshots(t) {
			for _, f := range c.Steps[i].Flows {
				var out bytes.Buffer
				if err := (command{out: &out}).explain(snap, simulateIptables(iptablesConfig(&flags{MasqueradeBit: 14})), f.Flow, true); err != nil {
					t.Fatalf("%s.txtar:%d: %v", c.Name, f.Line, err)
				}
				n++
				if text := out.String(); !strings.Contains(text, "outcome  "+f.Want.Verdict.String()+"\n") || strings.Contains(text, "This is a bug") {
					t.Errorf("%s.txtar:%d: %s\n%s", c.Name, f.Line, f.Text, text)
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d flows in the corpus", n)
	}
}
