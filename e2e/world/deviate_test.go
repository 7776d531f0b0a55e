//go:build linux

package world_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// TestDeviationsInCorpus lists every flow of the corpus that a mode plays
// differently, so that nothing is excused unseen. No deviation may be idle.
func TestDeviationsInCorpus(t *testing.T) {
	both := map[string]int{
		"nodeport-localhost forward to pass": 2, "nodeport-localhost-local forward to pass": 1,
		"nodeport-localhost-no-endpoints reject to pass": 1, "nodeport-localhost-only forward to pass": 1,
		"none-ping reject to forward": 6, "none-ping pass to forward": 2,
	}
	device := maps.Clone(both)
	device["none-ping pass to forward"] = 4
	device["nodeport-on-vip-address pass to reject"] = 1
	device["none-vip-undefined-port pass to reject"] = 10
	proxied := map[string]int{
		"nodeport-localhost forward to pass": 1, "nodeport-localhost pass to forward": 1,
		"protocol-same-port forward to reject": 2, "protocol-sctp forward to reject": 4,
		// These have another source address than the corpus says.
		"detector-bridge forward to forward": 4, "detector-cluster-cidr forward to forward": 4,
		"detector-one-family forward to forward": 3, "source-cip-cluster forward to forward": 2,
		"source-cip-cluster-nodetector forward to forward": 6,
		"source-eip-local forward to forward":              2, "source-eip-local-masqueradeall forward to forward": 2,
		"source-lb-local forward to forward": 2, "source-lb-local-masqueradeall forward to forward": 2,
		"source-np-local forward to forward": 2, "source-np-local-masqueradeall forward to forward": 2,
	}
	for mode, want := range map[world.Mode]map[string]int{
		world.IPTables: {}, world.IPVS: both, world.IPVSDevice: device, world.Userspace: proxied,
	} {
		got := make(map[string]int)
		for c := range servicetest.Corpus() {
			for k, n := range deviating(t, c, mode) {
				got[k] += n
			}
		}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("%s (-got +want):\n%s", mode, d)
		}
	}
}

// deviating counts the flows of a case that a mode plays differently, by what
// becomes of them.
func deviating(t *testing.T, c *servicetest.Case, mode world.Mode) map[string]int {
	t.Helper()
	out := make(map[string]int)
	table := world.Deviations(mode)
	there, err := world.Deviate(c, c.Snapshots(t), table)
	if err != nil {
		t.Fatal(err)
	}
	for i := range there.Steps {
		for j, f := range there.Steps[i].Flows {
			if before := c.Steps[i].Flows[j]; f.Text != before.Text {
				out[fmt.Sprintf("%s %v to %v", c.Name, before.Want.Verdict, f.Want.Verdict)]++
			}
		}
	}
	return out
}

const oneFlow = `# A flow that is nobody's business.
covers x/y
objects all.yaml
flow tcp outside 198.51.100.1 -> 203.0.113.7:80 pass
-- all.yaml --
apiVersion: v1
kind: Service
metadata: {namespace: default, name: web}
spec: {type: ClusterIP, clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack}
`

// TestDeviateTold holds that a complaint is expected where there is reason to.
func TestDeviateTold(t *testing.T) {
	for c := range servicetest.Corpus() {
		there, err := world.Deviate(c, c.Snapshots(t), world.Deviations(world.IPVS, "twos"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range there.Steps {
			want := slices.ContainsFunc(c.Steps[i].Services, func(o *corev1.Service) bool { return o.Name == "twos" })
			if got := len(there.Steps[i].Problems) > len(c.Steps[i].Problems); got != want {
				t.Errorf("%s: more problems than written: got %t, want %t", c.Name, got, want)
			}
		}
	}
}

// TestDeviate holds that an excuse that is none is found out.
func TestDeviate(t *testing.T) {
	c, err := servicetest.Parse("own", []byte(oneFlow))
	if err != nil {
		t.Fatal(err)
	}
	to := func(v service.Verdict, ok bool) world.Deviation {
		return world.Deviation{Reason: "it is so", Instead: func(*service.Snapshot, *servicetest.FlowExpect) (service.Outcome, bool) {
			return service.Outcome{Verdict: v}, ok
		}}
	}
	for _, tt := range []struct {
		name  string
		table []world.Deviation
		want  service.Verdict
		err   string
	}{
		{"none", nil, service.Pass, ""},
		{"of something else", []world.Deviation{to(service.Reject, false)}, service.Pass, ""},
		{"of this", []world.Deviation{to(service.Drop, false), to(service.Reject, true)}, service.Reject, ""},
		{"of nothing", []world.Deviation{to(service.Pass, true)}, 0, "not a deviation"},
		{"two", []world.Deviation{to(service.Drop, true), to(service.Reject, true)}, 0, "two deviations"},
	} {
		got, err := world.Deviate(c, c.Snapshots(t), tt.table)
		switch {
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: got error %v, want %q", tt.name, err, tt.err)
		case tt.err == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.err == "" && got.Steps[0].Flows[0].Want.Verdict != tt.want:
			t.Errorf("%s: got %v, want %v", tt.name, got.Steps[0].Flows[0].Want.Verdict, tt.want)
		}
	}
	if c.Steps[0].Flows[0].Want.Verdict != service.Pass {
		t.Error("the case itself was changed")
	}
}

// TestJudgePing holds that who answers a ping counts.
func TestJudgePing(t *testing.T) {
	ip := netip.MustParseAddr("10.96.0.10")
	ping := func(v service.Verdict, hops ...service.Hop) *servicetest.FlowExpect {
		f := flow(v, hops...)
		f.Flow.Protocol, f.Flow.Dst = service.ICMP, netip.AddrPortFrom(ip, 0)
		return f
	}
	byNode, byItself := reply(netip.AddrPortFrom(node, 0), netip.Addr{}), reply(netip.AddrPortFrom(ip, 0), netip.Addr{})
	forwarded := ping(service.Forward, hop(netip.AddrPortFrom(node, 0), false))
	for name, bad := range map[string]error{
		"node, as wanted":    world.Judge{Flow: forwarded, N1: isNode}.Reply(byNode, world.Sightings{}),
		"outside, as wanted": world.Judge{Flow: ping(service.Pass), N1: isNode}.Reply(byItself, world.Sightings{}),
	} {
		if bad != nil {
			t.Errorf("%s: %v", name, bad)
		}
	}
	for name, good := range map[string]error{
		"node, not outside": world.Judge{Flow: ping(service.Pass), N1: isNode}.Reply(byNode, world.Sightings{}),
		"outside, not node": world.Judge{Flow: forwarded, N1: isNode}.Reply(byItself, world.Sightings{}),
	} {
		if good == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
