//go:build linux

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// tries is how often a caller calls, so that one sees the choice.
const tries = 6

// A call is one line of the table.
type call struct {
	who  string // for the reader
	from *netns.NS
	src  string // source address; empty for the usual one
	to   string
	want netns.Class
	by   []string // who may answer
	saw  string   // source the pod sees; empty if it depends
	why  string
}

// play shows everything.
func (d *demo) play() error {
	if err := d.setUp(); err != nil {
		return err
	}
	client, pod := d.cluster.Client, d.pods["10.244.1.3"].NS
	d.say("Two nodes, three pods and a client outside, made of network namespaces.",
		"fairlead runs on both nodes and follows a folder of three manifests.")
	d.show("shop/web: a cluster IP, with a pod on each node", []call{
		{who: "pod 10.244.1.3", from: pod, to: "10.96.0.10:80", want: netns.Reply, by: []string{"10.244.1.2:8080", "10.244.2.2:8080"}, saw: "10.244.1.3", why: "pods see pods"},
		{who: "node n2", from: d.n2.NS, src: "172.18.0.12", to: "10.96.0.10:80", want: netns.Reply, by: []string{"10.244.1.2:8080", "10.244.2.2:8080"}, why: "the node's address"},
		{who: "pod 10.244.1.3", from: pod, to: "[fd00:10:96::10]:80", want: netns.Reply, by: []string{"[fd00:10:244:1::2]:8080", "[fd00:10:244:2::2]:8080"}, saw: "fd00:10:244:1::3", why: "IPv6 as well"},
		{who: "pod 10.244.1.3", from: pod, to: "10.96.0.10:81", want: netns.Refused, why: "no such port"},
	})
	d.show("shop/cart: a node port, externalTrafficPolicy: Local, its pod on n1", []call{
		{who: "client", from: client, src: "198.51.100.1", to: "172.18.0.11:30080", want: netns.Reply, by: []string{"10.244.1.3:8081"}, saw: "198.51.100.1", why: "the client itself"},
		{who: "client", from: client, src: "198.51.100.1", to: "172.18.0.12:30080", want: netns.Dropped, why: "no pod on n2"},
		{who: "node n2", from: d.n2.NS, src: "172.18.0.12", to: "172.18.0.12:30080", want: netns.Reply, by: []string{"10.244.1.3:8081"}, why: "from inside, from anywhere"},
	})
	d.show("shop/checkout: a load-balancer IP for two clients, each kept at one pod", []call{
		{who: "client .1", from: client, src: "198.51.100.1", to: "203.0.113.7:443", want: netns.Reply, by: []string{oneOfAny}, why: "session affinity"},
		{who: "client .2", from: client, src: "198.51.100.2", to: "203.0.113.7:443", want: netns.Reply, by: []string{oneOfAny}, why: "session affinity"},
		{who: "client .3", from: client, src: "198.51.100.3", to: "203.0.113.7:443", want: netns.Dropped, why: "not in the source ranges"},
	})
	if err := d.change(); err != nil {
		return err
	}
	if err := d.end(); err != nil {
		return err
	}
	if d.failed > 0 {
		return fmt.Errorf("%d lines were not as they should be", d.failed)
	}
	d.say("", "Everything was as it should be.")
	return nil
}

// change takes away the endpoints of shop/web, one after the other.
func (d *demo) change() error {
	pod := d.pods["10.244.1.3"].NS
	took, err := d.lose("10.244.2.2", "fd00:10:244:2::2")
	if err != nil {
		return err
	}
	d.show(fmt.Sprintf("The pod on n2 leaves the manifest of shop/web; %d ms later:", took.Milliseconds()), []call{
		{who: "pod 10.244.1.3", from: pod, to: "10.96.0.10:80", want: netns.Reply, by: []string{"10.244.1.2:8080"}, saw: "10.244.1.3", why: "the other pod takes all"},
	})
	if took, err = d.lose("10.244.1.2", "fd00:10:244:1::2"); err != nil {
		return err
	}
	d.show(fmt.Sprintf("So does the pod on n1; %d ms later:", took.Milliseconds()), []call{
		{who: "pod 10.244.1.3", from: pod, to: "10.96.0.10:80", want: netns.Refused, why: "told so, not left waiting"},
	})
	return nil
}

// settled is how many calls in a row must not meet the lost pod before traffic
// counts as having followed.
const settled = 10

// lose takes a pod out of the manifest of shop/web and returns how long it took
// traffic to follow.
func (d *demo) lose(addrs ...string) (time.Duration, error) {
	begin := time.Now()
	err := d.edit("clusterip.yaml", func(text string) string {
		for _, a := range addrs {
			text = without(text, a)
		}
		return text
	})
	if err != nil {
		return 0, err
	}
	var took time.Duration
	for row := 0; row < settled; row++ {
		if d.ctx.Err() != nil {
			return 0, fmt.Errorf("wait for traffic to follow: %w", d.ctx.Err())
		}
		if row == 0 {
			took = time.Since(begin)
		}
		if d.meets(addrs) {
			row = -1
		}
	}
	return took, nil
}

// meets calls shop/web once in each family and reports whether a pod with one of
// the addresses answered.
func (d *demo) meets(addrs []string) bool {
	for _, to := range []string{"10.96.0.10:80", "[fd00:10:96::10]:80"} {
		r := d.pods["10.244.1.3"].Probe(d.ctx, netns.Request{Proto: netns.TCP, Dst: netip.MustParseAddrPort(to)})
		if r.Class == netns.Reply && slices.Contains(addrs, r.From.Addr.Addr().String()) {
			return true
		}
	}
	return false
}

// end stops fairlead, shows that its rules live on, and removes them.
func (d *demo) end() error {
	for _, p := range d.agents {
		if err := p.Stop(5 * time.Second); err != nil {
			return fmt.Errorf("stop fairlead: %w\n%s", err, p.Output())
		}
	}
	d.show("fairlead is stopped; its rules stay", []call{
		{who: "client", from: d.cluster.Client, src: "198.51.100.1", to: "172.18.0.11:30080", want: netns.Reply, by: []string{"10.244.1.3:8081"}, saw: "198.51.100.1", why: "a restart disturbs nobody"},
	})
	for _, n := range []*netns.Node{d.n1, d.n2} {
		if out, err := n.Output(d.ctx, d.program, "cleanup"); err != nil {
			return fmt.Errorf("clean up: %w\n%s", err, out)
		}
	}
	d.show("fairlead cleanup", []call{
		{who: "client", from: d.cluster.Client, src: "198.51.100.1", to: "172.18.0.11:30080", want: netns.Refused, why: "nobody listens there now"},
	})
	return nil
}

// An answer is what calls of one kind came to.
type answer struct {
	class netns.Class
	by    map[string]int // endpoint: how often it answered
	saw   map[string]bool
}

// ask makes a call as often as it is worth it: what is dropped takes a second to
// notice.
func (d *demo) ask(c call) answer {
	a := answer{by: make(map[string]int), saw: make(map[string]bool)}
	req := netns.Request{Proto: netns.TCP, Dst: netip.MustParseAddrPort(c.to)}
	if c.src != "" {
		req.Src = netip.MustParseAddr(c.src)
	}
	for range tries {
		r := c.from.Probe(d.ctx, req)
		a.class = r.Class
		if r.Class != netns.Reply {
			break
		}
		a.by[r.From.Addr.String()]++
		a.saw[r.SeenSource.Addr().String()] = true
	}
	return a
}

// oneOfAny stands for "always the same pod, whichever that is".
const oneOfAny = "one of any"

// right reports whether a is what c wants. Which pod answers is left to chance,
// so that one of several may be missing.
func (c call) right(a answer) bool {
	if a.class != c.want {
		return false
	}
	if c.saw != "" && !(len(a.saw) == 1 && a.saw[c.saw]) {
		return false
	}
	if slices.Equal(c.by, []string{oneOfAny}) {
		return len(a.by) == 1
	}
	for ep := range a.by {
		if !slices.Contains(c.by, ep) {
			return false
		}
	}
	return true
}

func (a answer) String() string {
	if a.class != netns.Reply {
		return a.class.String()
	}
	var parts []string
	for _, ep := range slices.Sorted(maps.Keys(a.by)) {
		parts = append(parts, fmt.Sprintf("%s ×%d", ep, a.by[ep]))
	}
	return strings.Join(parts, ", ")
}

// show makes calls and prints what came of them.
func (d *demo) show(title string, calls []call) {
	d.say("", title)
	w := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  FROM\tTO\tANSWERED BY\tWHO SAW\tBECAUSE\t")
	for _, c := range calls {
		a := d.ask(c)
		verdict := ""
		if !c.right(a) {
			verdict = "WRONG"
			d.failed++
		}
		saw := strings.Join(slices.Sorted(maps.Keys(a.saw)), ", ")
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\n", c.who, c.to, a, saw, c.why, verdict)
	}
	_ = w.Flush()
}

func (d *demo) say(lines ...string) {
	for _, l := range lines {
		fmt.Fprintln(d.out, l)
	}
}
