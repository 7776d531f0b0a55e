//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
)

func TestSuiteFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-mode suite":                     "",
		"-mode suite -quick":              "",
		"-mode suite -full":               "",
		"-mode suite -only C3,C4,V1":      "",
		"-mode suite -only C9":            "-only",
		"-mode suite -rates 0":            "-rates",
		"-mode suite -rates x":            "-rates",
		"-mode suite -variants bpf":       "-variants",
		"-mode suite -kernel uml":         "-kernel",
		"-mode iptables -variants nft":    "",
		"-variants userspace":             "-variants",
		"-mode suite -variants userspace": "",
	} {
		_, err := parseFlags(strings.Fields(args))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want it to mention %q", args, err, want)
		}
	}
}

// worldNames are the worlds of a run.
func worldNames(t *testing.T, args string) []string {
	t.Helper()
	o, err := parseFlags(strings.Fields("-mode suite " + args))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, w := range (&bench{options: o}).worlds() {
		name := w.String()
		if w.brief {
			name += ", brief"
		}
		if w.sparse {
			name += ", sparse"
		}
		names = append(names, name)
	}
	return names
}

func TestWorlds(t *testing.T) {
	for args, want := range map[string][]string{
		"": {
			"standard, 10,000 Services × 5", "standard, 1,000 Services × 5", "memory, 10,000 Services × 10, brief",
			"large, 100 Services × 5, brief", "standard, 100 Services × 5, brief", "standard, 5,000 Services × 5, brief, sparse",
			"standard, 30,000 Services × 5, brief, sparse",
		},
		"-only C3 -n 200":     {"standard, 200 Services × 5"},
		"-only C5":            {"large, 100 Services × 5, brief"},
		"-only M1 -n 200":     {"memory, 200 Services × 10, brief"},
		"-only I1 -n 200":     {"memory, 200 Services × 10, brief"},
		"-only V1 -n 2000":    {"real, 1,000 Services × 5, brief"},
		"-only C1,V1 -n 1000": {"standard, 1,000 Services × 5", "real, 1,000 Services × 5, brief"},
	} {
		if diff := cmp.Diff(worldNames(t, args), want); diff != "" {
			t.Errorf("%q (-got +want):\n%s", args, diff)
		}
	}
}

func TestEntrantsTakeTurns(t *testing.T) {
	b := &bench{subjects: []subject{{name: kubeProxyName}, {name: fairleadName}}}
	b.options.variants = []variant{legacy, nft, nftables, userspace}
	var got []string
	for _, e := range b.entrants() {
		got = append(got, e.String())
	}
	want := []string{"kube-proxy legacy", "fairlead legacy", "kube-proxy nft", "fairlead nft", "kube-proxy nftables", "fairlead userspace"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestChiSquared(t *testing.T) {
	a := func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, i}) }
	for _, test := range []struct {
		hits map[netip.Addr]int
		n    int
		want float64
	}{
		{map[netip.Addr]int{a(1): 5, a(2): 5}, 2, 0},
		{map[netip.Addr]int{a(1): 6, a(2): 4}, 2, 0.4},
		{map[netip.Addr]int{a(1): 10}, 2, 10},
	} {
		if got := chiSquared(test.hits, test.n); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("%v of %d: got %v, want %v", test.hits, test.n, got, test.want)
		}
	}
}

func TestFindGauge(t *testing.T) {
	const text = "# TYPE x gauge\nx_total 3\nx 2.5e+06\n"
	if got, err := findGauge(strings.NewReader(text), "x"); err != nil || got != 2.5e6 {
		t.Errorf("got %v, %v, want 2.5e6", got, err)
	}
	if _, err := findGauge(strings.NewReader(text), "y"); err == nil {
		t.Error("a metric that there is not was found")
	}
}

func TestSpecWithLargeServices(t *testing.T) {
	s := spec{Services: 3, Probes: 2, Endpoints: 5, Large: []int{1, 250}, Loads: true}
	slices, addrs := map[string]int{}, map[string]bool{}
	for _, o := range s.objects() {
		e, ok := o.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		slices[e.Labels[discoveryv1.LabelServiceName]]++
		if e.Labels[discoveryv1.LabelServiceName] == nameOf(s.beyond()-1) {
			continue // the Service for loads shares its endpoints with others
		}
		for _, a := range addrsOf(e) {
			if addrs[a.String()] {
				t.Errorf("%v is there twice", a)
			}
			addrs[a.String()] = true
		}
	}
	want := map[string]int{nameOf(0): 1, nameOf(1): 1, nameOf(2): 1, nameOf(3): 1, nameOf(4): 1, nameOf(5): 1, nameOf(6): 3, nameOf(7): 1}
	if diff := cmp.Diff(slices, want); diff != "" {
		t.Errorf("EndpointSlices of Services (-got +want):\n%s", diff)
	}
	if got, want := len(addrs), 3*5+2+1+250; got != want {
		t.Errorf("%d addresses, want %d", got, want)
	}
	if addrs[s.spare(0).String()] {
		t.Errorf("the spare address %v is in use", s.spare(0))
	}
}

// TestForgetfulServer: an informer whose watch ended, and cannot be taken up again,
// has what was added and deleted meanwhile.
func TestForgetfulServer(t *testing.T) {
	f := start(t, spec{Services: 3, Endpoints: 2}, runtime.ContentTypeProtobuf)
	ctx := timeLimit(t)
	factory := informers.NewSharedInformerFactory(f.client, 0)
	services := factory.Core().V1().Services()
	names := services.Lister()
	services.Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	wholes := f.replay.wholes.Load()
	f.replay.disconnect()
	f.replay.store.write(service(7))
	if _, err := f.replay.store.remove(gvrServices(), namespaceOf(0), nameOf(0)); err != nil {
		t.Fatal(err)
	}
	has := func(i int) bool {
		_, err := names.Services(namespaceOf(i)).Get(nameOf(i))
		return err == nil
	}
	for !has(7) || has(0) || !has(1) {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			t.Fatalf("of Services 0, 1 and 7 there are %v, %v, %v: %v", has(0), has(1), has(7), err)
		}
	}
	if f.replay.wholes.Load() == wholes {
		t.Error("the watch was taken up where it ended")
	}
}

func TestStoreWritesAndRemoves(t *testing.T) {
	s := newStore(spec{Services: 3, Endpoints: 1}.objects())
	if r := s.write(service(1)); r.event != watch.Modified {
		t.Errorf("an object that there was: got %v", r.event)
	}
	if r := s.write(service(9)); r.event != watch.Added {
		t.Errorf("an object that there was not: got %v", r.event)
	}
	if _, err := s.remove(gvrServices(), namespaceOf(0), nameOf(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.remove(gvrServices(), namespaceOf(0), nameOf(0)); err == nil {
		t.Error("an object was removed twice")
	}
	var got []string
	rows, _ := s.list(gvrServices())
	for _, r := range rows {
		if s.get(gvrServices(), r.object.GetNamespace(), r.object.GetName()) != r {
			t.Errorf("%s cannot be found", r.object.GetName())
		}
		got = append(got, r.object.GetName())
	}
	if diff := cmp.Diff(got, []string{nameOf(9), nameOf(1), nameOf(2)}); diff != "" {
		t.Errorf("Services (-got +want):\n%s", diff)
	}
}

// someFigures are of two proxies, of which one came to no end with most Services.
func someFigures() figures {
	out := func(proxy string, n int, all float64) *outcome {
		o := &outcome{World: worldStandard, Proxy: proxy, Variant: nft, Services: n, Endpoints: 5, Round: 1}
		o.add(coldAll, all)
		o.add(churnMetric(20, "backlog_seconds"), 0.5)
		o.add(connectLast01, 10*all)
		o.add(connectLast50, 12*all)
		return o
	}
	late := &outcome{World: worldStandard, Proxy: kubeProxyName, Variant: nft, Services: 1000, Endpoints: 5, Round: 1}
	late.atLeast(coldAll, 60)
	return merge([]results{
		{Outcomes: []*outcome{out(fairleadName, 1000, 1), late}},
		{Outcomes: []*outcome{out(kubeProxyName, 100, 2), out(fairleadName, 100, 1)}},
		{Environment: environment{Mode: modeIPVS}, Outcomes: []*outcome{{Proxy: fairleadName, Variant: legacy, Services: 5000, Values: map[metric][]float64{flipLatency: {4}}}}},
	})
}

func TestSuiteTable(t *testing.T) {
	f := someFigures()
	got := f.table(chapter{"C1", "", worldStandard, []row{one("all, s", coldAll), one("nothing", coldCPU)}})
	want := `| Services | | kube-proxy, iptables-nft | fairlead, iptables-nft | ratio, nft |
|--:|---|--:|--:|--:|
| 100 × 5 | all, s | 2.00 | 1.00 | 0.500 |
| 1,000 × 5 | all, s | > 60.0 | 1.00 | < 0.017 |
`
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestTargets(t *testing.T) {
	got := someFigures().targets()
	for _, want := range []string{
		"| ready after at most 1/5 of kube-proxy's time | iptables-nft | 1.00 s, ratio 0.017, at 1,000 × 5 | met |",
		"| connect() flat in the number of Services | iptables-nft | last Service: 10.0 µs of 100, 10.0 µs of 1,000, at p01 | met |",
		"| event to packet, one endpoint, p50 at most 5 ms | ipvs, in the lab | 4.00 ms, at 5,000 Services | met |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got:\n%swant among it:\n%s", got, want)
		}
	}
	if strings.Contains(got, "RSS") {
		t.Errorf("there are targets of what was not measured:\n%s", got)
	}
}

// TestPromptness: a change may take as long as the kernel's floor makes it, and the table
// says which of the two limits it is about. Numbers of Services beyond those that the
// targets are about do not count.
func TestPromptness(t *testing.T) {
	for _, test := range []struct {
		took, floor float64
		want        string
	}{
		{4, 1, "4.00 ms, at 10,000 × 5 | met |"},
		{80, 75, "80.0 ms, at 10,000 × 5: more than 5 ms; 1.07 times the floor, 75.0 ms | met |"},
		{80, 40, "80.0 ms, at 10,000 × 5: more than 5 ms; 2.00 times the floor, 40.0 ms | **not met** |"},
		{80, 0, "80.0 ms, at 10,000 × 5; the floor was not measured | **not met** |"},
	} {
		var all []*outcome
		for _, n := range []int{100, 10_000, 30_000} {
			o := &outcome{World: worldStandard, Proxy: fairleadName, Variant: legacy, Services: n, Endpoints: 5, Round: 1}
			scale := float64(n) / 10_000
			o.add(flipLatency, test.took*scale)
			if test.floor > 0 {
				o.add(floorWall, test.floor*scale)
			}
			all = append(all, o)
		}
		if got := merge([]results{{Outcomes: all}}).targets(); !strings.Contains(got, test.want) {
			t.Errorf("got:\n%swant among it: %s", got, test.want)
		}
	}
}

func TestTargetsIPVS(t *testing.T) {
	out := func(proxy string, cold, rss float64) *outcome {
		o := &outcome{Proxy: proxy, Variant: legacy, Services: 1000}
		o.add(startRSS, rss)
		if proxy == fairleadName {
			o.add(coldAll, cold)
			o.add(restartIPVS, 0)
			o.add(restartIPSet, 2)
		} else {
			o.atLeast(coldAll, cold)
		}
		return o
	}
	f := merge([]results{{Environment: environment{Mode: modeIPVS}, Outcomes: []*outcome{out(kubeProxyName, 200, 80e6), out(fairleadName, 4, 40e6)}}})
	got := f.targets()
	for _, want := range []string{
		"| cold start in at most 1/10 of kube-proxy's time | ipvs, in the lab | 4.00 s, ratio less than 0.020, at 1,000 Services | met |",
		"| RSS at most 1/4 of kube-proxy's | ipvs, in the lab | 40.0 MB, ratio 0.500, at 1,000 Services | **not met** |",
		"| a restart without a change writes nothing | ipvs, in the lab | 2 writes, at 1,000 Services | **not met** |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got:\n%swant among it:\n%s", got, want)
		}
	}
}

func TestDistinct(t *testing.T) {
	if got, want := distinct("churn: late\nlate\n late\ngone"), "churn: late; gone"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPlotsAreWellFormed(t *testing.T) {
	files := someFigures().plots()
	if len(files) != 2 { // of cold start and connect()
		t.Errorf("%d plots, want 2", len(files))
	}
	for name, text := range files {
		d := xml.NewDecoder(strings.NewReader(text))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Errorf("%s has points that are nowhere", name)
		}
	}
	if (plot{}).svg() != "" {
		t.Error("nothing was drawn")
	}
}

func TestDocumentWithoutFigures(t *testing.T) {
	text, err := (figures{}).document(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, "# Performance\n") || strings.Contains(text, "![") {
		t.Errorf("the document begins with %q", text[:min(len(text), 100)])
	}
}
