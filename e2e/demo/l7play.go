//go:build linux

package main

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A visit is a request of the client outside.
type visit struct {
	src    string // one of the client's addresses
	url    string
	fields []string // of the head, besides
	want   string   // app that answers; empty: nobody does, it is fairlead itself
	status string
	to     string // where a redirect leads
	why    string
}

// showL7 makes requests through the address, an example after the other.
func (d *demo) showL7() error {
	d.say("Two nodes, seven apps with a pod on each node, and a client outside, made of network namespaces.",
		"n1 runs fairlead --proxy-mode=iptables, with "+edgeVIP+" as an external IP of the Service fairlead-l7/edge,",
		"and fairlead l7 behind it. Both follow one folder: the examples of deploy/l7, and the apps' Services.")
	const client = "198.51.100.2"
	d.visits("tls.yaml: TLS ends at fairlead, plain text is redirected", []visit{
		{src: client, url: "https://shop.example.com/cart", want: "shop", status: "200", why: "its own certificate, verified"},
		{src: client, url: "http://shop.example.com/cart?id=7", status: "308", to: "https://shop.example.com/cart?id=7", why: "ssl-redirect"},
	})
	d.visits("fan-out.yaml: one host, Services by path", []visit{
		{src: client, url: "http://foo.bar.example.com/foo/x", want: "foo", status: "200", why: "Prefix /foo"},
		{src: client, url: "http://foo.bar.example.com/bar", want: "bar", status: "200", why: "Prefix /bar"},
		{src: client, url: "http://foo.bar.example.com/version", want: "bar", status: "200", why: "Exact /version, port by name"},
		{src: client, url: "http://foo.bar.example.com/foobar", status: "404", why: "no whole element of the path"},
	})
	d.visits("virtual-hosts.yaml and single-service.yaml: Services by host, and the rest", []visit{
		{src: client, url: "http://foo.example.com/", want: "foo", status: "200", why: "by name"},
		{src: client, url: "http://bar.example.com/", want: "bar", status: "200", why: "by name"},
		{src: client, url: "http://acme.tenants.example.com/", want: "tenants", status: "200", why: "*.tenants.example.com"},
		{src: client, url: "http://a.b.tenants.example.com/", want: "web", status: "200", why: "two labels are not one"},
		{src: client, url: "http://other.example.net/", want: "web", status: "200", why: "the rest"},
	})
	d.visits("canary.yaml: the new version for some", []visit{
		{src: client, url: "http://app.example.com/", fields: []string{"X-Canary: always"}, want: "app-green", status: "200", why: "by header"},
		{src: client, url: "http://app.example.com/", fields: []string{"X-Canary: never"}, want: "app-blue", status: "200", why: "by header"},
	})
	d.visits("edge-ha.yaml: an address in front of the edge nodes, externalTrafficPolicy: Local", []visit{
		{src: "198.51.100.1", url: "http://www.example.com/", want: "web", status: "200", why: "the client itself is seen"},
		{src: "198.51.100.3", url: "http://www.example.com/", fields: []string{"X-Forwarded-For: 192.0.2.66"}, want: "web", status: "200", why: "it cannot pretend"},
	})
	if err := d.loseShop(); err != nil {
		return err
	}
	return d.stopL7()
}

// followWithin is more than traffic may ever take to follow a manifest.
const followWithin = 10 * time.Second

// loseShop takes the pod on n1 away from all apps.
func (d *demo) loseShop() error {
	begin := time.Now()
	err := d.edit("objects.yaml", func(text string) string {
		lines := slices.DeleteFunc(strings.SplitAfter(text, "\n"), func(s string) bool { return strings.Contains(s, "["+l7Pods()[0]+"]") })
		return strings.Join(lines, "")
	})
	if err != nil {
		return err
	}
	v := visit{src: "198.51.100.2", url: "https://shop.example.com/", want: "shop", status: "200", why: "the pod on n2 takes all"}
	for row := 0; row < settled; row++ {
		if a := d.ask7(v); strings.Contains(a.by, l7Pods()[0]) || a.status != "200" {
			row = -1
		}
		if d.ctx.Err() != nil || time.Since(begin) > followWithin {
			return fmt.Errorf("traffic has not followed within %v", followWithin)
		}
	}
	d.visits(fmt.Sprintf("The pods on n1 leave; %d ms and %d requests later:", time.Since(begin).Milliseconds(), settled), []visit{v})
	return nil
}

// stopL7 ends both, which must be orderly.
func (d *demo) stopL7() error {
	for _, p := range d.agents {
		if err := p.Stop(10 * time.Second); err != nil {
			return fmt.Errorf("stop fairlead: %w\n%s", err, p.Output())
		}
	}
	lines := strings.Count(d.agents[0].Stdout(), `"status"`)
	d.say("", fmt.Sprintf("fairlead is stopped. Its log of requests has %d lines; the first:", lines))
	line, _, _ := strings.Cut(d.agents[0].Stdout(), "\n")
	d.say("  " + line)
	if lines == 0 {
		d.failed++
	}
	return nil
}

// A reply is what became of a visit.
type reply struct{ status, by, saw, to string }

// ask7 makes a request with curl.
func (d *demo) ask7(v visit) reply {
	u, err := url.Parse(v.url)
	if err != nil {
		return reply{status: err.Error()}
	}
	args := []string{
		"-sS", "--max-time", "5", "--interface", v.src, "--cacert", d.certFile(), "-w", "\n%{http_code} %{redirect_url}",
		"--resolve", u.Hostname() + ":80:" + edgeVIP, "--resolve", u.Hostname() + ":443:" + edgeVIP, v.url,
	}
	for _, f := range v.fields {
		args = append(args, "-H", f)
	}
	out, err := d.cluster.Client.Output(d.ctx, "curl", args...)
	if err != nil {
		_, why, _ := strings.Cut(err.Error(), ": curl: ")
		return reply{status: "none: " + why}
	}
	body, last, _ := strings.Cut(out, "\n")
	if i := strings.LastIndexByte(out, '\n'); i >= 0 {
		body, last = out[:i], out[i+1:]
	}
	var r reply
	r.status, r.to, _ = strings.Cut(last, " ")
	if who, saw, ok := strings.Cut(body, " "); ok && strings.Contains(who, "@") {
		r.by, r.saw = who, saw
	}
	return r
}

// right reports whether a reply is what v wants. Which pod answers is left to chance.
func (v visit) right(r reply) bool {
	if r.status != v.status || r.to != v.to {
		return false
	}
	if v.want == "" {
		return r.by == ""
	}
	return strings.HasPrefix(r.by, v.want+"@") && r.saw == v.src
}

// visits makes requests and prints what came of them.
func (d *demo) visits(title string, list []visit) {
	d.say("", title)
	w := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  FROM\tREQUEST\tSTATUS\tANSWERED BY\tWHO SAW\tBECAUSE\t")
	for _, v := range list {
		r := d.ask7(v)
		verdict, by := "", r.by
		if !v.right(r) {
			verdict = "WRONG"
			d.failed++
		}
		if by == "" {
			by = "fairlead"
		}
		if r.to != "" {
			by += " → " + r.to
		}
		request := strings.Join(append([]string{v.url}, v.fields...), ", ")
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.src, request, r.status, by, r.saw, v.why, verdict)
	}
	if err := w.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
}
