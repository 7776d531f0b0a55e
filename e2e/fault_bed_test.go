//go:build linux

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// variants are the two kinds of iptables.
func variants() []string { return []string{"nft", "legacy"} }

// eachVariant runs a test in a bed of its own for each kind of iptables.
func eachVariant(t *testing.T, test func(t *testing.T, b *bed), args ...string) {
	t.Parallel()
	for _, v := range variants() {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			test(t, newBed(t, v, args...))
		})
	}
}

// A bed is a world with fairlead on its node n1, following a folder of
// manifests, to which bad things are done.
type bed struct {
	*world.World
	program world.Program
	mode    world.Mode
	variant string
	dir     string   // of manifests
	args    []string // more flags
	env     []string // more environment

	src    world.Source
	proxy  *world.Proxy // of the last start; nil before
	marker *world.Marker
	before string          // of the last put, the virtual servers in the IPVS modes
	owned  map[string]bool // virtual servers that were ever said to be fairlead's, as elements of sets
}

// newBed builds a world for iptables mode, and fairlead is not started yet.
func newBed(t *testing.T, variant string, args ...string) *bed {
	t.Helper()
	return newBedIn(t, world.IPTables, variant, args...)
}

// newBedIn builds a world for any mode.
func newBedIn(t *testing.T, mode world.Mode, variant string, args ...string) *bed {
	t.Helper()
	binary := requireWorld(t)
	b := &bed{
		World:   newWorld(t, world.Config{Prefix: "flfault"}),
		program: world.FairleadMode(binary, mode, variant),
		mode:    mode, variant: variant, dir: t.TempDir(), args: args,
		owned: make(map[string]bool),
	}
	b.src = world.NewManifests(b.dir)
	t.Cleanup(func() {
		if t.Failed() && b.proxy != nil {
			t.Logf("state of n1: %s\nfairlead said:\n%s", dump(t, b.World, b.mode, b.variant), b.proxy.Tail(40))
		}
	})
	return b
}

// other is fairlead in another variant.
func (b *bed) other(t *testing.T, variant string) world.Program {
	t.Helper()
	return world.FairleadMode(b.program.Path, b.mode, variant)
}

// start runs fairlead, with the objects that are there.
func (b *bed) start(t *testing.T) {
	t.Helper()
	b.startWith(t, b.src.Args()...)
}

func (b *bed) startWith(t *testing.T, args ...string) {
	t.Helper()
	prog := b.program
	prog.Env = b.env
	all := slices.Concat([]string{
		"--cluster-cidr=10.244.0.0/16,fd00:10:244::/48",
		// The longest a change waits: not one of these tests has that for its subject.
		"--iptables-min-sync-period=50ms", "--ipvs-min-sync-period=50ms",
		// What lasts is the subject of some.
		"--ipvs-drain-timeout=0s",
	}, b.args, args)
	p, err := b.Start(context.Background(), prog, all...)
	if err != nil {
		t.Fatal(err)
	}
	b.proxy = p
}

// stop ends fairlead in the ordinary way.
func (b *bed) stop(t *testing.T) {
	t.Helper()
	if err := b.proxy.Stop(); err != nil {
		t.Fatal(err)
	}
}

// put replaces all objects, without waiting for anything. Zone is n1's.
func (b *bed) put(t *testing.T, fixtures ...fixture) {
	t.Helper()
	old := b.marker
	if b.mode.IPVS() {
		b.before = b.servers(t)
	}
	var err error
	if b.marker, err = b.NewMarker(); err != nil {
		t.Fatal(err)
	}
	if err := b.src.Put(t.Context(), stateOf(b.marker, fixtures)); err != nil {
		t.Fatal(err)
	}
	if old != nil {
		t.Cleanup(func() { old.Close() })
	}
}

// await waits until what was put last is in force, and written or confirmed by
// the process that runs now.
func (b *bed) await(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.proxy.WaitOutput(ctx, "first sync done"); err != nil {
		t.Fatal(err)
	}
	if err := b.Await(t.Context(), b.marker, b.proxy); err != nil {
		t.Fatal(err)
	}
}

// apply puts objects and waits until they are in force.
func (b *bed) apply(t *testing.T, fixtures ...fixture) {
	t.Helper()
	b.put(t, fixtures...)
	b.await(t)
}

// serve has something listen at these addresses, which may be of pods.
func (b *bed) serve(t *testing.T, proto netns.Proto, port uint16, at ...netns.Dual) {
	t.Helper()
	for _, d := range at {
		for _, a := range d.Slice() {
			if err := b.Serve(proto, netip.AddrPortFrom(a, port)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// place is the namespace at an address.
func (b *bed) place(t *testing.T, d netns.Dual) *netns.NS {
	t.Helper()
	ns, err := b.Place(d.V4)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// tool runs a program on n1 to its end, with n1's xtables lock and input, and
// returns what it wrote.
func (b *bed) tool(ctx context.Context, input, name string, args ...string) (string, error) {
	p := b.N1.Command(ctx, name, args...)
	p.Cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+b.LockFile())
	p.Cmd.Stdin = strings.NewReader(input)
	err := p.Start()
	if err == nil {
		err = p.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, p.Stderr())
	}
	return p.Stdout(), nil
}

// ipt runs iptables and ip6tables of the bed's variant.
func (b *bed) ipt(t *testing.T, args ...string) {
	t.Helper()
	for _, name := range []string{"iptables-", "ip6tables-"} {
		if _, err := b.tool(t.Context(), "", name+b.variant, append([]string{"-w"}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
}

// Tables are the rules of both families in one variant: those that belong to
// fairlead, chain by chain in order of their names, and those that do not. In the
// IPVS modes, so is everything else that fairlead writes there.
type tables struct{ ours, foreign string }

// save reads the tables of the bed's variant.
func (b *bed) save(t *testing.T) tables {
	t.Helper()
	return b.saveVariant(t, b.variant)
}

func (b *bed) saveVariant(t *testing.T, variant string) tables {
	t.Helper()
	var out tables
	for _, name := range []string{"iptables-", "ip6tables-"} {
		text, err := b.tool(t.Context(), "", name+variant+"-save")
		if err != nil {
			t.Fatal(err)
		}
		one := parseSave(text)
		out.ours += name + "\n" + one.ours
		out.foreign += name + "\n" + one.foreign
	}
	var mine, others section
	switch {
	case b.mode.IPVS():
		b.saveIPVS(t, &mine, &others)
	case b.mode == world.Userspace:
		b.saveSets(t, &mine, &others)
		b.saveRouting(t, "17997", &mine, &others)
	}
	out.ours += mine.String()
	out.foreign += others.String()
	return out
}

// parseSave takes the output of iptables-save apart. Chains are sorted, since
// the kernel lists them in the order in which they were made.
func parseSave(text string) tables {
	ours := make(map[string][]string)
	var foreign strings.Builder
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case line == "" || line[0] == '#' || line == "COMMIT":
			continue
		case line[0] == '*':
			table = line
			fmt.Fprintln(&foreign, line)
			continue
		case line[0] == ':': // a chain: without its counters
			words[0], line = words[0][1:], strings.Join(words[:2], " ")
			words = []string{":", words[0]}
		}
		jump := strings.TrimPrefix(line, "-A "+words[1]+" -m comment --comment fairlead")
		if strings.HasPrefix(words[1], "FL-") || strings.HasPrefix(jump, " -j FL-") {
			key := table + " " + words[1]
			ours[key] = append(ours[key], line)
		} else {
			fmt.Fprintln(&foreign, line)
		}
	}
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(ours)) {
		fmt.Fprintf(&out, "%s\n\t%s\n", key, strings.Join(ours[key], "\n\t"))
	}
	return tables{out.String(), foreign.String()}
}

// netstat reads a counter of the namespace from the line of its protocol, as in
// "TcpExt" and "TCPSynRetrans".
func netstat(t *testing.T, ns *netns.NS, proto, counter string) int {
	t.Helper()
	var n int
	err := ns.Do(func() error {
		f, err := os.Open("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		defer f.Close()
		var names []string
		for lines := bufio.NewScanner(f); lines.Scan(); {
			words := strings.Fields(lines.Text())
			if words[0] != proto+":" {
				continue
			}
			if names == nil {
				names = words
				continue
			}
			i := slices.Index(names, counter)
			if i < 0 {
				break
			}
			_, err := fmt.Sscan(words[i], &n)
			return err
		}
		return fmt.Errorf("no counter %s of %s", counter, proto)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// within calls check until it returns nil, and fails the test if that takes
// longer than limit. It returns how long it took.
func within(t *testing.T, limit time.Duration, check func() error) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		err := check()
		took := time.Since(start)
		if err == nil {
			return took
		}
		if took > limit {
			t.Fatalf("after %v: %v", took.Round(time.Millisecond), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
