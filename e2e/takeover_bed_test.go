//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
	"github.com/fairlead-project/fairlead/e2e/lab"
	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// An actor is a proxy in one of its modes.
type actor struct {
	kube    string     // --proxy-mode of kube-proxy; empty for fairlead
	mode    world.Mode // of fairlead
	variant string     // of iptables
}

func (a actor) String() string {
	switch {
	case a.kube == "nftables":
		return "kube-proxy nftables"
	case a.kube != "":
		return "kube-proxy " + a.kube + " (" + a.variant + ")"
	default:
		return "fairlead " + string(a.mode) + " (" + a.variant + ")"
	}
}

// proxies reports whether connections end with the process.
func (a actor) proxies() bool { return a.kube == "" && a.mode == world.Userspace }

// cuts reports whether what is open ends when next follows: with the proxy that had it; or because one proxy answers where
// another's virtual servers were, which have to go at once.
func (a actor) cuts(next actor) bool {
	return a.proxies() || next.proxies() && (a.kube == "ipvs" || a.mode.IPVS())
}

// A stage is a world whose node is served by one actor after the other, under load.
type stage struct {
	*bed
	kubeProxy string   // path
	gates     []string // flags for feature gates of this kube-proxy
	shims     map[string]string
	more      []fixture // Services beside those of the load
	flushed   bool      // some actor removes every virtual server, whoever's it is

	now      actor
	control  *prober // of connections that no proxy has a part in
	baseline foreignState
	serial   int
	rows     []string
}

// newStage builds the world with kube-proxy of the release that is pinned; nobody serves yet.
func newStage(t *testing.T, variant string) *stage {
	t.Helper()
	path, err := controlplane.KubeProxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return newStageWith(t, variant, path)
}

func newStageWith(t *testing.T, variant, kubeProxy string, gates ...string) *stage {
	t.Helper()
	b := newBed(t, variant)
	s := &stage{bed: b, kubeProxy: kubeProxy, gates: gates, shims: make(map[string]string)}
	if os.Getenv(lab.Inside) == "" || os.Getenv(lab.Inside) == "uml" {
		b.src = newAPI(t, b.World)
	} else { // which runs ten times slower
		r, err := world.NewReplay(b.World, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		b.src = r
	}
	b.serve(t, netns.TCP, 8080, pod(2), pod(3), pod(4))
	b.serve(t, netns.UDP, 8080, pod(2), pod(3))
	return s
}

// shim is a folder where every iptables is of the variant; kube-proxy takes what it
// finds in PATH.
func (s *stage) shim(t *testing.T, variant string) string {
	t.Helper()
	if dir := s.shims[variant]; dir != "" {
		return dir
	}
	target, err := exec.LookPath("xtables-" + variant + "-multi")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			if err := os.Symlink(target, filepath.Join(dir, name+suffix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.shims[variant] = dir
	return dir
}

// objects are the Services of the load, and one that is another at every step.
func (s *stage) objects() []fixture {
	s.serial++
	lb := web(2, 2, 3, 4)
	lb.lb = []string{"203.0.113.80", "2001:db8:113::80"}
	udp := fixture{
		name: "dns", ip: clusterIP(3), protocol: "UDP", port: 53, target: 8080, endpoints: podsOf(2, 3),
	}
	fresh := web(100+s.serial, 2+s.serial%3)
	fresh.nodePort = 0
	return append([]fixture{web(1, 2, 3, 4), lb, udp, fresh}, s.more...)
}

// enter starts an actor, and waits until what it was given is in force.
func (s *stage) enter(t *testing.T, a actor) {
	t.Helper()
	s.put(t, s.objects()...)
	before := s.now
	s.now, s.mode, s.variant = a, a.mode, a.variant
	if a.kube == "" {
		s.program = world.FairleadMode(s.bed.program.Path, a.mode, a.variant)
		s.startWith(t, s.src.Args()...)
		s.bed.await(t)
		return
	}
	s.startKubeProxy(t, a)
	if a.kube == "ipvs" {
		s.awaitSets(t, a)
	}
	if before.mode.IPVS() && before.kube == "" {
		s.cleanup(t) // until then the node has addresses, but not as a whole, which kube-proxy relies on
	}
	s.awaitKubeProxy(t)
}

func (s *stage) startKubeProxy(t *testing.T, a actor) {
	t.Helper()
	prog := world.Program{Path: s.kubeProxy, Mode: world.IPVSDevice, Env: []string{"PATH=" + s.shim(t, a.variant) + ":" + os.Getenv("PATH")}}
	p, err := s.Start(context.Background(), prog, slices.Concat(s.src.Args(), s.gates, []string{
		"--proxy-mode=" + a.kube, "--hostname-override=n1", "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48", "--v=2",
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		"--nodeport-addresses=" + netns.NodeAddr(1).V4.String() + "/32," + netns.NodeAddr(1).V6.String() + "/128",
		"--ipvs-exclude-cidrs=192.0.2.0/24", "--ipvs-min-sync-period=0s", "--iptables-min-sync-period=0s",
	})...)
	if err != nil {
		t.Fatal(err)
	}
	s.proxy = p
}

// awaitKubeProxy waits until what it was given is in force. It takes minutes: in ipvs
// mode it starts a program for each element of a set.
func (s *stage) awaitKubeProxy(t *testing.T) {
	t.Helper()
	var err error
	for range 6 {
		if err = s.Await(t.Context(), s.marker, s.proxy); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// awaitSets waits until kube-proxy has written its sets and rules, which come after
// the servers.
func (s *stage) awaitSets(t *testing.T, a actor) {
	t.Helper()
	within(t, 3*time.Minute, func() error {
		last := clusterIP(100 + s.serial)
		if _, missing := s.tool(t.Context(), "", "ipset", "test", "KUBE-6-CLUSTER-IP", last.V6.String()+",tcp:80"); missing != nil {
			return missing
		}
		rules, err := s.tool(t.Context(), "", "ip6tables-"+a.variant+"-save", "-t", "nat")
		if err == nil && !strings.Contains(rules, "-A KUBE-POSTROUTING") {
			err = errors.New("kube-proxy has not written its rules yet")
		}
		return err
	})
}

// leave ends the actor that serves. What it has put in force stays.
func (s *stage) leave(t *testing.T, a actor, p *world.Proxy) {
	t.Helper()
	if a.kube != "" {
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
}

// A held is a connection that was opened before a change.
type held struct {
	*netns.Conn
	what string
}

// hold opens connections from everywhere to everything.
func (s *stage) hold(t *testing.T) []held {
	t.Helper()
	caller := s.place(t, pod(9))
	var out []held
	for i, x := range slices.Concat(
		both(s.Client, netns.NodeAddr(1), 30001), both(caller, clusterIP(1), 80),
		both(s.N1.NS, clusterIP(1), 80), both(s.Client, s.vip(), 80),
	) {
		// Of its own for each step, so that IPVS cannot take an answer for another's.
		port := uint16(20000 + 100*s.serial + i)
		c, r := x.from.Dial(t.Context(), netns.Request{Proto: netns.TCP, Dst: x.dst, SrcPort: port, Timeout: 10 * time.Second})
		if c == nil {
			t.Fatalf("%v: from %s to %v: %v", s.now, x.from.Name(), x.dst, r)
		}
		t.Cleanup(func() { c.Close() })
		out = append(out, held{c, fmt.Sprintf("from %s to %v", x.from.Name(), x.dst)})
	}
	return out
}

func (s *stage) vip() netns.Dual {
	return netns.Dual{V4: netip.MustParseAddr("203.0.113.80"), V6: netip.MustParseAddr("2001:db8:113::80")}
}

// load is what connects all the time.
func (s *stage) load(t *testing.T, every time.Duration) *prober {
	t.Helper()
	caller := s.place(t, pod(9))
	return s.hammer(t, every, slices.Concat(
		both(s.Client, netns.NodeAddr(1), 30001), both(caller, clusterIP(1), 80),
		both(s.N1.NS, clusterIP(1), 80), both(s.Client, s.vip(), 80),
	)...)
}

// A tally is what a prober has seen so far.
type tally struct{ count, failed, slow, repeated int }

func (p *prober) tally(t *testing.T) tally {
	t.Helper()
	var out tally
	for i, ns := range p.from {
		out.repeated += netstat(t, ns, "TcpExt", "TCPSynRetrans") - p.before[i]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	out.count, out.failed, out.slow = p.count, len(p.failures), len(p.slow)
	return out
}

// more waits until n more connections were opened, and until none is under way that was
// begun before: it may be one that a step has cut, and takes seconds to give up.
func (p *prober) more(t *testing.T, n int) {
	t.Helper()
	p.mu.Lock()
	begin := slices.Clone(p.each)
	p.mu.Unlock()
	within(t, time.Minute, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		now := 0
		for i, count := range p.each {
			if count < begin[i]+2 {
				return fmt.Errorf("%d connections to target %d, want 2", count-begin[i], i)
			}
			now += count - begin[i]
		}
		if now < n {
			return fmt.Errorf("%d connections, want %d", now, n)
		}
		return nil
	})
}

// A foreignState is what belongs to others, by where it is.
type foreignState map[string]string

// foreign reads what is nobody's of fairlead, and not kube-proxy's either: if what it
// returns is what it was before anybody served, nothing is left of kube-proxy.
func (s *stage) foreign(t *testing.T) foreignState {
	t.Helper()
	out := foreignState{}
	for _, variant := range s.kinds(t) {
		for _, name := range []string{"iptables-", "ip6tables-"} {
			text, err := s.tool(t.Context(), "", name+variant+"-save")
			if err != nil {
				t.Fatal(err)
			}
			out[name+variant] = ofOthers(parseSave(text).foreign)
		}
	}
	out["sets"] = s.without(t, "ipset save", "FL")
	if ipvsHere() == nil && !s.flushed { // keepalived's, say; kube-proxy is told to leave this network alone
		for _, line := range s.listServers(t) {
			if strings.Contains(line, "192.0.2.80:80") {
				out["servers"] += line
			}
		}
	}
	if _, err := exec.LookPath("nft"); err == nil && slices.Contains(s.kinds(t), "nft") {
		out["nft"] = s.nftTables(t)
	}
	return out
}

// kinds are the variants of iptables that work here.
func (s *stage) kinds(t *testing.T) []string {
	t.Helper()
	if os.Getenv(lab.Inside) != "" {
		return ipvsVariants(t)
	}
	return variants()
}

// ofOthers leaves out of the rules of others what only says that there is a table, and
// what kube-proxy shares with the kubelet.
func ofOthers(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		if line[0] != '*' && !strings.Contains(line, "KUBE-FIREWALL") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// without runs a command and leaves out lines with a prefix in their second word.
func (s *stage) without(t *testing.T, command, prefix string) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(s.run(t, command)) {
		words := strings.Fields(line)
		if len(words) > 1 && strings.HasPrefix(words[1], prefix) {
			continue
		}
		out = append(out, line)
	}
	return strings.Join(out, "")
}

// nftTables is the table of others, and the names of all that are not those of
// iptables.
func (s *stage) nftTables(t *testing.T) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(s.run(t, "nft list tables")) {
		w := strings.Fields(line)
		if len(w) == 3 && !slices.Contains([]string{"nat", "filter", "mangle", "raw", "security"}, w[2]) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "") + s.run(t, "nft list table inet bystander")
}

// settleForeign puts things of others on the node, and notes what they look like.
func (s *stage) settleForeign(t *testing.T) {
	t.Helper()
	for _, variant := range s.kinds(t) {
		for _, name := range []string{"iptables-", "ip6tables-"} {
			for _, line := range []string{
				"-t mangle -N KUBE-IPTABLES-HINT", "-t mangle -N KUBE-KUBELET-CANARY", "-t nat -N KUBE-KUBELET-CANARY",
				"-t filter -N KUBE-KUBELET-CANARY", "-t nat -N KUBE-MARK-DROP",
				"-t nat -N BYSTANDER", "-t nat -A BYSTANDER -p tcp --dport 1 -j RETURN", "-t nat -A POSTROUTING -j BYSTANDER",
				"-t filter -N KUBE-SVC-BYSTANDER", "-t filter -A FORWARD -p tcp --dport 1 -j KUBE-SVC-BYSTANDER",
				"-t mangle -A PREROUTING -p tcp --dport 1 -j ACCEPT",
			} {
				if _, err := s.tool(t.Context(), "", name+variant, append([]string{"-w"}, strings.Fields(line)...)...); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if ipvsHere() == nil && !s.flushed {
		s.run(t, "ipvsadm -A -t 192.0.2.80:80 -s wlc -p 77")
		s.run(t, "ipvsadm -a -t 192.0.2.80:80 -r 192.0.2.81:80 -m -w 7")
	}
	s.run(t, "ipset create BYSTANDER hash:ip")
	s.run(t, "ipset add BYSTANDER 192.0.2.1")
	s.run(t, "ipset create KUBE-BYSTANDER hash:ip")
	if slices.Contains(s.kinds(t), "nft") {
		s.run(t, "nft add table inet bystander")
		s.run(t, "nft add chain inet bystander kube-proxy")
	}
	s.baseline = s.foreign(t)
}

// wantForeign waits until nothing is left of kube-proxy, and nothing of others has
// changed.
func (s *stage) wantForeign(t *testing.T, when string, limit time.Duration, places ...string) {
	t.Helper()
	within(t, limit, func() error {
		got := s.foreign(t)
		for place, want := range s.baseline {
			if len(places) > 0 && !slices.ContainsFunc(places, func(p string) bool { return strings.HasPrefix(place, p) }) {
				continue
			}
			if d := cmp.Diff(got[place], want); d != "" {
				return fmt.Errorf("%s: %s is not what it was before anybody served (-got +want):\n%s", when, place, d)
			}
		}
		return nil
	})
}
