//go:build linux

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/lab"
	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// What runs in the lab: the tests of labPackages whose names match labTests.
const labTests = "^Test(IPVS|Linux)"

// longTests take as long as all others.
const longTests = "^TestIPVSFlows$"

// slowTests is what a kernel gives a second opinion on that takes ten times as
// long: its interfaces, and cases of the corpus that are each about another way
// through it. They are played with nf_tables, which user-mode Linux does not have.
func slowTests() string {
	cases := []string{
		"affinity-default", "affinity-udp", "hairpin-only-endpoint", "hairpin-node-port-local",
		"lb-source-ranges", "lb-source-ranges-local", "nodeport-tcp-and-udp", "nodeport-two-services",
		"none-no-endpoints", "none-ping", "none-vip-undefined-port", "protocol-sctp", "protocol-udp",
		"select-external-local-none-here", "service-multi-port",
		"source-(cip|np)-cluster", "source-(eip|lb)-local",
		"step-rolling-update", "step-single-to-dual-stack", "step-types", "step-udp-cycle", "weight-one",
	}
	return "^TestIPVSKernel$|^TestLinux|^TestIPVSFlows$/^ipvs(-device)?-nft$/^world/^(" + strings.Join(cases, "|") + ")$"
}

// labRun is the environment variable that replaces both, to try one thing:
//
//	FAIRLEAD_LAB_RUN=TestIPVSKernel go test ./e2e -v -run TestIPVSLab/uml
const labRun = "FAIRLEAD_LAB_RUN"

// labPackages are the packages with tests that need a kernel with IPVS, as seen
// from here. This one comes first.
func labPackages() []string { return []string{".", "../ipvs/kernel", "../ipvs"} }

// TestIPVSLab sees to it that the tests that need IPVS are run: on the running
// kernel if it has that, and else on kernels that are booted for the purpose.
// There is no third way: that there is no such kernel is a failure.
func TestIPVSLab(t *testing.T) {
	if os.Getenv(lab.Inside) != "" {
		t.Skip("this is the lab")
	}
	binary := requireWorld(t)
	programs := labPrograms(t, binary)
	if lacks := ipvsHere(); lacks != nil {
		t.Logf("the running kernel cannot do it: %v", lacks)
		runInLab(t, programs)
		return
	}
	t.Log("the running kernel has IPVS: the tests of this package run by themselves")
	for _, p := range programs[1:] {
		t.Run(p.name, func(t *testing.T) {
			s := newLabScore(t)
			cmd := exec.CommandContext(t.Context(), p.path, p.args(t, cmp.Or(os.Getenv(labRun), labTests), "", labParallel)...)
			cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, p.env, s, s
			err := cmd.Run()
			s.judge(cmd.ProcessState.ExitCode(), err)
		})
	}
}

// A labRound is what one guest has to do.
type labRound struct {
	name, kernel string
	tests        string // names, as of go test -run
	not          string // but not these
	programs     int    // how many of the programs are run
}

// labRounds are done by two guests at a time, the longest first. User-mode Linux
// has one CPU, so what it has to do is cut in two.
func labRounds() []labRound {
	all := len(labPackages())
	if try := os.Getenv(labRun); try != "" {
		return []labRound{
			{name: "uml", kernel: "uml", tests: try, programs: all},
			{name: "qemu", kernel: "qemu", tests: try, programs: all},
			{name: "qemu-newest", kernel: "qemu-newest", tests: try, programs: all},
		}
	}
	return []labRound{
		{"uml-flows", "uml", longTests, "", 1},
		{"uml", "uml", labTests, longTests, all},
		{"qemu", "qemu", slowTests(), "", all - 1}, // the last has none of them
		{"qemu-newest", "qemu-newest", slowTests(), "", all - 1},
	}
}

// runInLab runs programs on every kind of kernel.
func runInLab(t *testing.T, programs []labProgram) {
	if _, err := controlplane.Binaries(t.Context()); err != nil {
		t.Fatal(err) // guests take them from the cache
	}
	if _, err := controlplane.KubeProxy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, v := range olderReleases() {
		if _, err := controlplane.Release(t.Context(), v, "kube-proxy"); err != nil {
			t.Fatal(err)
		}
	}
	rounds := make(chan labRound)
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for r := range rounds {
				t.Run(r.name, func(t *testing.T) { r.run(t, programs[:r.programs], 1+i) })
			}
		})
	}
	for _, r := range labRounds() {
		rounds <- r
	}
	close(rounds)
	wg.Wait()
}

func (r labRound) run(t *testing.T, programs []labProgram, cpu int) {
	k, err := lab.Find(t.Context(), r.kernel)
	if errors.Is(err, lab.ErrNoneNewer) {
		t.Skip(err)
	}
	if err != nil && os.Getenv(world.Require) == "1" {
		t.Fatalf("%v\n.ci/deps installs what is missing, as root", err)
	}
	if err != nil {
		t.Skip(err)
	}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			begin := time.Now()
			s := newLabScore(t)
			run := func(s *labScore, tests, not, parallel string) (int, error) {
				return k.Run(t.Context(), lab.Job{
					Path: p.path, Args: p.args(t, tests, not, parallel), Env: p.env, Dir: p.dir, Share: p.share,
					Timeout: timeLeft(t), Memory: 3072, CPU: cpu, Output: s,
				})
			}
			code, err := run(s, r.tests, r.not, labParallel)
			if again := s.tops(); err == nil && code != 0 && len(again) > 0 {
				// One slow CPU does not always leave tests with deadlines the time
				// they have alone. What fails counts if it fails there too.
				tests := "^(" + strings.Join(again, "|") + ")$"
				if cases := s.cases(); cases != "" {
					tests = cases
				}
				t.Logf("failed beside others, and are run again alone: %v", tests)
				s = newLabScore(t)
				if strings.Contains(r.tests, "/") {
					tests = r.tests // parts of tests, of which the names say nothing
				}
				code, err = run(s, tests, r.not, "1")
			}
			s.judge(code, err)
			t.Logf("kernel %s: %d passed, %d skipped, %d failed in %.0f s",
				k.Release(), len(s.passed), len(s.skipped), len(s.failed), time.Since(begin).Seconds())
		})
	}
}

// A labProgram is a test binary.
type labProgram struct {
	name, path, dir string
	env, share      []string
}

// labPrograms builds the test binaries, but for this one.
func labPrograms(t *testing.T, binary string) []labProgram {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	share := []string{binary, filepath.Dir(here)} // that is, all of the source
	for _, ask := range []string{"GOROOT", "GOMODCACHE"} {
		out, err := exec.CommandContext(t.Context(), "go", "env", ask).Output()
		if err != nil {
			t.Fatal(err)
		}
		share = append(share, strings.TrimSpace(string(out)))
	}
	if cache, err := os.UserCacheDir(); err == nil {
		share = append(share, cmp.Or(os.Getenv("FAIRLEAD_E2E_CACHE"), filepath.Join(cache, "fairlead-e2e")))
	}
	var out []labProgram
	for i, pkg := range labPackages() {
		p := labProgram{name: filepath.Base(pkg), path: self, dir: filepath.Join(here, pkg), share: share}
		if i == 0 {
			p.name = "e2e"
		} else {
			p.path = filepath.Join(t.TempDir(), p.name+".test")
			build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", p.path, pkg)
			if text, err := build.CombinedOutput(); err != nil {
				t.Fatalf("build the tests of %s: %v\n%s", pkg, err, text)
			}
		}
		p.env = append(os.Environ(), "FAIRLEAD="+binary, world.Require+"=1")
		out = append(out, p)
	}
	return out
}

// labParallel is how many parallel tests run at once: they wait more than they
// compute.
const labParallel = "4"

func (p labProgram) args(t *testing.T, tests, not, parallel string) []string {
	return []string{
		"-test.v", "-test.run", tests, "-test.skip", not,
		"-test.parallel", parallel, "-test.timeout", max(timeLeft(t)-time.Minute, 30*time.Second).String(),
	}
}

// timeLeft is what is left of the time limit of this test, less some to report in.
func timeLeft(t *testing.T) time.Duration {
	if deadline, ok := t.Deadline(); ok {
		return max(time.Until(deadline)-time.Minute, 30*time.Second)
	}
	return time.Hour
}

// A labScore passes on what a test binary writes and keeps count.
type labScore struct {
	t                       *testing.T
	out                     io.Writer
	passed, skipped, failed []string
}

func newLabScore(t *testing.T) *labScore { return &labScore{t: t, out: t.Output()} }

func (s *labScore) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		verdict, name, _ := strings.Cut(strings.TrimLeft(line, " "), ": ")
		name, _, _ = strings.Cut(name, " ")
		switch verdict {
		case "--- PASS":
			s.passed = append(s.passed, name)
		case "--- SKIP":
			s.skipped = append(s.skipped, name)
		case "--- FAIL":
			s.failed = append(s.failed, name)
		}
	}
	return s.out.Write(b)
}

// tops returns the names of the tests that failed, without subtests.
func (s *labScore) tops() []string {
	var out []string
	for _, name := range s.failed {
		top, _, _ := strings.Cut(name, "/")
		out = append(out, top)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// cases returns a pattern for the cases of the corpus that failed, whichever world they are
// dealt to; nothing if anything else failed too.
func (s *labScore) cases() string {
	var variants, cases []string
	for _, name := range s.failed {
		parts := strings.Split(name, "/")
		if parts[0] != "TestIPVSFlows" {
			return ""
		}
		if len(parts) == 4 {
			variants, cases = append(variants, parts[1]), append(cases, parts[3])
		}
	}
	if len(cases) == 0 {
		return ""
	}
	return fmt.Sprintf("^TestIPVSFlows$/^(%s)$/./^(%s)$", strings.Join(variants, "|"), strings.Join(cases, "|"))
}

// judge fails the test for all that is not a complete success.
func (s *labScore) judge(code int, err error) {
	s.t.Helper()
	slices.Sort(s.failed)
	switch {
	case err != nil:
		s.t.Errorf("failed: %v; then: %v", s.failed, err)
	case code != 0:
		s.t.Errorf("exit code %d, failed: %s", code, strings.Join(s.failed, ", "))
	case len(s.passed) == 0:
		s.t.Error("not one test was run")
	}
}

// TestIPVSKernel holds that the kernel does with packets what IPVS is about,
// without any part of fairlead: if this fails, do not read on.
func TestIPVSKernel(t *testing.T) {
	requireIPVS(t)
	requireWorld(t)
	c, err := netns.New(netns.Config{Nodes: 1, Prefix: "flkernel"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	n1 := c.Node("n1")
	run := func(command string, args ...any) {
		t.Helper()
		words := strings.Fields(fmt.Sprintf(command, args...))
		if _, err := n1.Output(t.Context(), words[0], words[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	vip := netns.Dual{V4: netip.MustParseAddr("203.0.113.7"), V6: netip.MustParseAddr("2001:db8:113::7")}
	for _, a := range vip.Slice() {
		if err := errors.Join(n1.AddAddr(netns.Uplink, netip.PrefixFrom(a, a.BitLen())), c.RouteTo(n1, netip.PrefixFrom(a, a.BitLen()))); err != nil {
			t.Fatal(err)
		}
		run("ipvsadm -A -t %s -s rr", netip.AddrPortFrom(a, 80))
	}
	for m := 2; m <= 3; m++ {
		pod, err := c.AddPod(n1, netns.PodAddr(1, m).Slice()...)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range vip.Slice() {
			to := netip.AddrPortFrom(pod.Addr(a), 8080)
			if _, err := pod.Serve(netns.TCP, to); err != nil {
				t.Fatal(err)
			}
			run("ipvsadm -a -t %s -r %s -m", netip.AddrPortFrom(a, 80), to)
		}
	}
	for _, a := range vip.Slice() {
		seen := map[netip.AddrPort]int{}
		for range 4 {
			got := c.Client.Probe(t.Context(), netns.Request{Proto: netns.TCP, Dst: netip.AddrPortFrom(a, 80), Timeout: 5 * time.Second})
			if got.Class != netns.Reply {
				t.Fatalf("%s: got %v, want a reply", a, got)
			}
			seen[got.From.Addr]++
		}
		if len(seen) != 2 {
			t.Errorf("%s: got answers of %v, want two of each pod", a, seen)
		}
	}
}
