package servicetest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/service"
)

// An Eval prepares one Snapshot and returns what a dataplane's plan for it does
// with first packets. Hops may come in any order.
type Eval func(*service.Snapshot) func(service.Flow) (service.Outcome, error)

// An Option changes what Oracle tries.
type Option func(*oracle)

// Worlds sets how many random worlds are tried; the default is 300, a tenth of
// it with -short.
func Worlds(n int) Option { return func(o *oracle) { o.worlds = n } }

// Seed sets the seed of the first world; the default is 1, and each following
// world has the next one.
func Seed(seed uint64) Option { return func(o *oracle) { o.seed = seed } }

// Except lets a dataplane differ from the oracle where it reports a Deviation:
// reason returns why for a flow it cannot serve as told, and "" for all others.
// Excepted flows must differ in some world, or the exception is stale and Oracle
// fails.
func Except(reason func(*service.Snapshot, service.Flow) string) Option {
	return func(o *oracle) { o.except = reason }
}

// flowsPerWorld is how many random flows each world gets.
const flowsPerWorld = 60

// An oracle compares an Eval with Snapshot.Resolve.
type oracle struct {
	eval   Eval
	worlds int
	seed   uint64
	except func(*service.Snapshot, service.Flow) string

	compared, excepted, differed int
}

func newOracle(eval Eval, opts []Option) *oracle {
	o := &oracle{
		eval: eval, worlds: 300, seed: 1,
		except: func(*service.Snapshot, service.Flow) string { return "" },
	}
	if testing.Short() {
		o.worlds /= 10
	}
	for _, opt := range opts {
		opt(o)
	}
	return o
}

// Oracle requires eval to agree with Snapshot.Resolve on every flow of the
// corpus and on random flows in random worlds. The first disagreement in a
// random world is made small before it is reported with its seed.
func Oracle(t *testing.T, eval Eval, opts ...Option) {
	t.Helper()
	o := newOracle(eval, opts)
	for c := range Corpus() {
		o.corpusCase(t, c)
	}
	for i := range o.worlds {
		if msg := o.world(o.seed+uint64(i), flowsPerWorld); msg != "" {
			t.Fatal(msg)
		}
	}
	t.Logf("%d flows compared, %d excepted, of which %d differ", o.compared, o.excepted, o.differed)
	if o.excepted > 0 && o.differed == 0 {
		t.Errorf("all %d excepted flows are served as the oracle says: the exception is stale", o.excepted)
	}
}

// FuzzOracle does for one random world per input what Oracle does for many, so
// that finds stay in testdata/fuzz.
func FuzzOracle(f *testing.F, eval Eval, opts ...Option) {
	f.Helper()
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		if msg := newOracle(eval, opts).world(seed, flowsPerWorld); msg != "" {
			t.Fatal(msg)
		}
	})
}

func (o *oracle) corpusCase(t *testing.T, c *Case) {
	t.Helper()
	for i, snap := range c.Snapshots(t) {
		eval := o.eval(snap)
		for _, f := range c.Steps[i].Flows {
			if d := o.compare(snap, eval, f.Flow); d != "" {
				t.Errorf("%s.txtar:%d: %s\n%s", c.Name, f.Line, f.Text, d)
			}
		}
	}
}

// world returns a report of the first disagreement in the world of seed, or "".
func (o *oracle) world(seed uint64, flows int) string {
	w := NewWorld(seed)
	snap := w.Snapshot()
	eval := o.eval(snap)
	for range flows {
		fl := w.Flow()
		if o.compare(snap, eval, fl) == "" {
			continue
		}
		w.shrink(func() bool {
			s := w.Snapshot()
			return o.compare(s, o.eval(s), fl) != ""
		})
		s := w.Snapshot()
		return fmt.Sprintf("seed %d, made small:\n%sflow: %s\n%s", seed, w, describeFlow(fl), o.compare(s, o.eval(s), fl))
	}
	return ""
}

// compare returns how eval and the oracle differ about fl, or "".
func (o *oracle) compare(snap *service.Snapshot, eval func(service.Flow) (service.Outcome, error), fl service.Flow) string {
	want, why := snap.Explain(fl)
	got, err := eval(fl)
	same := err == nil && sameOutcome(got, want)
	o.compared++
	if reason := o.except(snap, fl); reason != "" {
		o.excepted++
		if !same {
			o.differed++
		}
		return ""
	}
	switch {
	case same:
		return ""
	case err != nil:
		return fmt.Sprintf("got error: %v\nwant %s\n  because %s", err, describeOutcome(want), strings.Join(why, "\n  because "))
	default:
		return fmt.Sprintf("got  %s\nwant %s\n  because %s", describeOutcome(got), describeOutcome(want), strings.Join(why, "\n  because "))
	}
}

func sameOutcome(a, b service.Outcome) bool {
	sorted := func(h []service.Hop) []service.Hop {
		return slices.SortedFunc(slices.Values(h), func(a, b service.Hop) int { return a.Endpoint.Addr.Compare(b.Endpoint.Addr) })
	}
	return a.Verdict == b.Verdict && slices.Equal(sorted(a.Hops), sorted(b.Hops))
}

// PortOf returns the port and frontend that fl is sent to, or nil: for Except,
// so that a dataplane can say which ports it deviates for.
func PortOf(snap *service.Snapshot, fl service.Flow) (*service.Port, *service.Frontend) {
	wild := netip.AddrPortFrom(service.FamilyOf(fl.Dst.Addr()).Any(), fl.Dst.Port())
	nodePorts := snap.Node.AnswersNodePorts(fl.Dst.Addr())
	var port *service.Port
	var frontend *service.Frontend
	for p := range snap.Ports.All() {
		for i := range p.Frontends {
			switch fe := &p.Frontends[i]; {
			case p.ID.Protocol != fl.Protocol:
			case fe.Kind != service.NodePort && fe.Addr == fl.Dst:
				return p, fe
			case fe.Kind == service.NodePort && nodePorts && fe.Addr == wild:
				port, frontend = p, fe
			}
		}
	}
	return port, frontend
}
