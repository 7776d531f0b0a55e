//go:build linux

package e2e

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// An l7Balance is one way to choose endpoints, with pods of its own.
type l7Balance struct {
	*testing.T
	bed    *l7Bed
	proxy  *l7Proxy
	client *http.Client
	choice l7Choice
	name   string
	port   uint16 // of its servers
	pods   []*l7Pod
}

// An l7Choice is a subtest of TestL7Balance.
type l7Choice struct {
	name   string
	notes  []string
	canary []string // of a second Ingress, which has the last pod
	check  func(b *l7Balance)
}

var l7Choices = []l7Choice{
	{"round robin", nil, nil, (*l7Balance).roundRobin},
	{"round robin by name", []string{"load-balance: round_robin"}, nil, (*l7Balance).roundRobin},
	{"least requests", []string{"load-balance: least_requests"}, nil, func(b *l7Balance) { b.avoids(0, 150*time.Millisecond, 0.12) }},
	{"ewma", []string{"load-balance: ewma"}, nil, func(b *l7Balance) { b.avoids(0, 100*time.Millisecond, 0.12) }},
	{"hash", []string{"upstream-hash-by: $request_uri"}, nil, (*l7Balance).hash},
	{"ip hash", []string{"load-balance: ip_hash"}, nil, (*l7Balance).ipHash},
	{"sticky balanced", []string{"affinity: cookie"}, nil, func(b *l7Balance) { b.sticky(false) }},
	{"sticky persistent", []string{"affinity: cookie", "affinity-mode: persistent"}, nil, func(b *l7Balance) { b.sticky(true) }},
	{"sticky and failing", []string{"affinity: cookie", "session-cookie-change-on-failure: true", "proxy-next-upstream: http_503"}, nil, (*l7Balance).changes},
	{"canary by weight", nil, []string{"canary-weight: 30"}, func(b *l7Balance) { b.weighs(0.3) }},
	{"canary by weight of many", nil, []string{"canary-weight: 50", "canary-weight-total: 1000"}, func(b *l7Balance) { b.weighs(0.05) }},
	{"canary and session", []string{"affinity: cookie"}, []string{"canary-weight: 50", "affinity-canary-behavior: sticky"}, func(b *l7Balance) { b.canarySession(true) }},
	{"canary without session", []string{"affinity: cookie", "affinity-canary-behavior: legacy"}, []string{"canary-weight: 50", "affinity-canary-behavior: legacy"}, func(b *l7Balance) { b.canarySession(false) }},
	{"ejection", []string{"max-fails: 2", "fail-timeout: 2", "proxy-next-upstream: off"}, nil, (*l7Balance).ejects},
	{"no ejection", []string{"max-fails: 0", "proxy-next-upstream: off"}, nil, (*l7Balance).keeps},
	{"active checks", []string{
		"health-check-path: /healthz", "health-check-method: HEAD", "health-check-host: check.test", "health-check-interval: 1", "health-check-timeout: 500ms",
		"health-check-rise: 2", "health-check-fall: 2", "health-check-expected-codes: 204", "max-fails: 0",
	}, nil, (*l7Balance).checks},
	{"slow start", []string{"slow-start: 6"}, nil, (*l7Balance).slowStart},
	{"next after error", nil, nil, func(b *l7Balance) { b.repeats(breakOff, http.StatusBadGateway, true) }},
	{"next after 503", []string{"proxy-next-upstream: http_503"}, nil, func(b *l7Balance) { b.repeats(busy, http.StatusServiceUnavailable, true) }},
	{"no next after 503", []string{"max-fails: 0"}, nil, func(b *l7Balance) { b.repeats(busy, http.StatusServiceUnavailable, false) }},
	{"next after timeout", []string{"proxy-read-timeout: 1"}, nil, (*l7Balance).afterTimeout},
	{"tries", []string{"proxy-next-upstream: http_503", "proxy-next-upstream-tries: 2", "max-fails: 0"}, nil, (*l7Balance).tries},
	{"time for tries", []string{"proxy-read-timeout: 1", "proxy-next-upstream-timeout: 1", "max-fails: 0"}, nil, (*l7Balance).timeForTries},
	{"next for POST too", []string{"proxy-next-upstream: http_503 non_idempotent", "max-fails: 0"}, nil, (*l7Balance).repeatsPost},
}

// TestL7Balance counts who is asked, in every way to choose among endpoints. Each way has four servers of its own, one in each
// of four pods.
func TestL7Balance(t *testing.T) {
	t.Parallel()
	bed := newL7Bed(t, "balance", 1)
	var homes []*l7Pod
	for k := range 4 {
		homes = append(homes, bed.emptyPod(t, bed.Nodes[0], 2+k))
	}
	bed.folder.put(t, "class", l7Class("fairlead", "fairlead.io/ingress"))
	proxy := bed.start(t, l7Start{})
	var all []*l7Balance
	for i, c := range l7Choices {
		b := &l7Balance{T: t, bed: bed, proxy: proxy, choice: c, name: fmt.Sprintf("choice-%d", i), port: uint16(9000 + i)}
		for k, home := range homes {
			p := &l7Pod{Pod: home.Pod, name: fmt.Sprintf("p%d", k)}
			p.serve(t, b.port, nil)
			b.pods = append(b.pods, p)
		}
		all = append(all, b)
		bed.folder.put(t, b.name, b.objects(b.pods)...)
	}
	bed.folder.settle(t, proxy)
	t.Run("choices", func(t *testing.T) {
		for _, b := range all {
			t.Run(b.choice.name, func(t *testing.T) {
				t.Parallel()
				own := *b
				own.T, own.client = t, proxy.client()
				b.choice.check(&own)
			})
		}
	})
}

// objects are those of a choice with these pods; of a canary, the last one is its own.
func (b *l7Balance) objects(pods []*l7Pod, leaving ...l7Endpoint) []any {
	notes := func(list []string) map[string]string {
		out := make(map[string]string)
		for _, n := range list {
			key, value, _ := strings.Cut(n, ": ")
			out["fairlead.io/"+key] = value
		}
		return out
	}
	host := b.name + ".test"
	var out []any
	if b.choice.canary != nil {
		last := len(pods) - 1
		out = append(out, l7Service(b.name+"-canary", "", 80, int(b.port), endpoints(pods[last])...)...)
		out = append(out, l7Ingress(b.name+"-canary", host, notes(append([]string{"canary: true"}, b.choice.canary...)), l7Path{path: "/", service: b.name + "-canary"}))
		pods = pods[:last]
	}
	out = append(out, l7Service(b.name, "", 80, int(b.port), append(endpoints(pods...), leaving...)...)...)
	return append(out, l7Ingress(b.name, host, notes(b.choice.notes), l7Path{path: "/", service: b.name}))
}

func (b *l7Balance) url(path string) string { return "http://" + b.name + ".test" + path }

// ask makes one request and returns who has answered, or the status.
func (b *l7Balance) ask(method, path string, fields ...string) string {
	b.Helper()
	body := ""
	if method == http.MethodPost {
		body = "once"
	}
	a := send(b.T, b.client, method, b.url(path), body, fields...)
	if a.Status != http.StatusOK {
		return fmt.Sprint(a.Status)
	}
	return a.Header.Get("X-Backend")
}

// spread counts who answers n requests, one after the other.
func (b *l7Balance) spread(n int, fields ...string) map[string]int {
	b.Helper()
	got := make(map[string]int)
	for range n {
		got[b.ask(http.MethodGet, "/", fields...)]++
	}
	return got
}

func (b *l7Balance) roundRobin() {
	got := b.spread(400)
	for _, p := range b.pods {
		if n := got[p.name]; n < 99 || n > 101 {
			b.Errorf("got %v, want 100 each", got)
		}
	}
}

// avoids makes one server slow, and wants no more than a share of requests to go there.
func (b *l7Balance) avoids(slow int, by time.Duration, most float64) {
	b.pods[slow].answer(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(by)
		l7Echo(b.pods[slow].name, w, r)
	})
	got := b.together(16, 50, "/")
	if share := float64(got[b.pods[slow].name]) / 800; share > most {
		b.Errorf("got %v: %.2f go to the slow one, want %.2f at most", got, share, most)
	}
	if len(got) < 3 {
		b.Errorf("got %v: some are not asked at all", got)
	}
}

// together counts who answers requests of several clients.
func (b *l7Balance) together(clients, each int, path string) map[string]int {
	var group sync.WaitGroup
	var mu sync.Mutex
	got := make(map[string]int)
	for range clients {
		group.Go(func() {
			for range each {
				by := b.ask(http.MethodGet, path)
				mu.Lock()
				got[by]++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return got
}

func (b *l7Balance) hash() {
	owner := make(map[string]string)
	count := make(map[string]int)
	for i := range 200 {
		path := fmt.Sprintf("/key-%d", i)
		owner[path] = b.ask(http.MethodGet, path)
		count[owner[path]]++
	}
	for _, p := range b.pods {
		if count[p.name] < 20 {
			b.Errorf("got %v, want about 50 each", count)
		}
	}
	for path, want := range owner {
		if got := b.ask(http.MethodGet, path); got != want {
			b.Errorf("%s goes to %s and then to %s", path, want, got)
		}
	}
	b.bed.folder.put(b.T, b.name, b.objects(b.pods[1:])...)
	b.settle()
	moved := 0
	for path, want := range owner {
		if got := b.ask(http.MethodGet, path); got != want && want != b.pods[0].name {
			moved++
		}
	}
	if moved > 0 {
		b.Errorf("%d keys of servers that have stayed have moved", moved)
	}
}

var settling sync.Mutex // of choices, which share a folder

func (b *l7Balance) settle() {
	b.Helper()
	settling.Lock()
	defer settling.Unlock()
	b.bed.folder.settle(b.T, b.proxy)
}

func (b *l7Balance) ipHash() {
	owners := make(map[string]bool)
	for i := 1; i <= 5; i++ {
		src := netns.ClientAddr(i).V4
		tr := b.client.Transport.(*http.Transport).Clone()
		tr.DialContext = func(ctx context.Context, _, _ string) (c net.Conn, err error) {
			err = b.bed.Client.Do(func() error {
				d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))}
				c, err = d.DialContext(ctx, "tcp", netip.AddrPortFrom(b.proxy.addr(), 80).String())
				return err
			})
			return c, err
		}
		own := *b
		own.client = &http.Client{Transport: tr, Timeout: 10 * time.Second}
		got := own.spread(20)
		if len(got) != 1 {
			b.Errorf("client %v: got %v, want one server", src, got)
		}
		owners[slices.Collect(maps.Keys(got))[0]] = true
	}
	if len(owners) < 2 {
		b.Errorf("five clients all go to %v", owners)
	}
}

// session makes a request and returns the cookie that it brings.
func (b *l7Balance) session() (cookie, by string) {
	b.Helper()
	for range 20 {
		a := fetch(b.T, b.client, b.url("/"))
		if set, _, _ := strings.Cut(a.Header.Get("Set-Cookie"), ";"); set != "" {
			return "Cookie: " + set, a.Header.Get("X-Backend")
		}
		if a.Header.Get("X-Backend") != "p3" { // which may be that of a canary without sessions
			b.Fatalf("no cookie: %+v", a)
		}
	}
	b.Fatal("no cookie")
	return "", ""
}

// sticky holds that sessions stay; while their pod terminates too, if they are persistent.
func (b *l7Balance) sticky(persistent bool) {
	cookies := make(map[string]string)
	for range 200 {
		cookie, by := b.session()
		cookies[by] = cookie
	}
	if len(cookies) != 4 {
		b.Fatalf("sessions begin at %v only", slices.Collect(maps.Keys(cookies)))
	}
	for by, cookie := range cookies {
		if got := b.spread(20, cookie); got[by] != 20 {
			b.Errorf("a session at %s: got %v", by, got)
		}
	}
	b.bed.folder.put(b.T, b.name, b.objects(b.pods[1:], l7Endpoint{addr: b.pods[0].v4(), terminating: true})...)
	b.settle()
	for by, cookie := range cookies {
		if by == "p0" && !persistent {
			continue
		}
		if got := b.spread(10, cookie); got[by] != 10 {
			b.Errorf("a session at %s, while p0 terminates: got %v", by, got)
		}
	}
	if got := b.spread(100); got["p0"] > 0 {
		b.Errorf("new clients still go to p0, which terminates: %v", got)
	}
}

func busy(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }

// breakOff reads a request and ends the connection.
func breakOff(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// changes holds that a session moves for good when its server has failed.
func (b *l7Balance) changes() {
	cookie, by := b.session()
	i := slices.IndexFunc(b.pods, func(p *l7Pod) bool { return p.name == by })
	b.pods[i].answer(busy)
	a := fetch(b.T, b.client, b.url("/"), cookie)
	set, _, _ := strings.Cut(a.Header.Get("Set-Cookie"), ";")
	if a.Status != http.StatusOK || set == "" || "Cookie: "+set == cookie {
		b.Fatalf("after a failure: %d, cookie %q", a.Status, set)
	}
	b.pods[i].answer(nil)
	if got := b.spread(20, "Cookie: "+set); got[a.Header.Get("X-Backend")] != 20 {
		b.Errorf("the session is at %s and then %v", a.Header.Get("X-Backend"), got)
	}
}

// weighs holds which share of requests goes to the canary.
func (b *l7Balance) weighs(want float64) {
	const n = 2000
	got := b.together(4, n/4, "/")
	share := float64(got["p3"]) / n
	if share < want*0.6 || share > want*1.4 {
		b.Errorf("got %v: %.3f to the canary, want %.3f", got, share, want)
	}
}

// canarySession holds that a session stays at the canary or away from it; or not.
func (b *l7Balance) canarySession(stays bool) {
	for range 10 {
		cookie, by := b.session()
		got := b.spread(20, cookie)
		if (got["p3"] == 20) != (by == "p3") && stays || stays && got["p3"] != 0 && got["p3"] != 20 {
			b.Errorf("a session that began at %s: got %v", by, got)
		}
		if !stays && (got["p3"] == 0 || got["p3"] == 20) {
			b.Errorf("a session that is asked anew: got %v", got)
		}
	}
}

// ejects holds that a server that fails is left out, and comes back.
func (b *l7Balance) ejects() {
	b.pods[0].answer(busy)
	got := b.spread(100)
	if got["503"] < 1 || got["503"] > 4 {
		b.Errorf("got %v, want 2 failures", got)
	}
	b.pods[0].answer(nil)
	if got := b.spread(40); got["p0"] > 0 {
		b.Errorf("left out: got %v", got)
	}
	within(b.T, 6*time.Second, func() error {
		if got := b.spread(40); got["p0"] < 8 {
			return fmt.Errorf("it does not come back: %v", got)
		}
		return nil
	})
}

func (b *l7Balance) keeps() {
	b.pods[0].answer(busy)
	if got := b.spread(100); got["503"] < 24 || got["503"] > 26 {
		b.Errorf("got %v, want 25 failures", got)
	}
}

// checks holds that a server whose health check fails is left out, and how it is asked.
func (b *l7Balance) checks() {
	var bad atomic.Bool
	var seen atomic.Pointer[string]
	for i, p := range b.pods {
		p.answer(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				l7Echo(p.name, w, r)
				return
			}
			text := r.Method + " " + r.Host
			seen.Store(&text)
			if i == 0 && bad.Load() {
				w.WriteHeader(http.StatusOK) // which is not 204
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	gone := func(want bool) func() error {
		return func() error {
			if got := b.spread(40); (got["p0"] == 0) != want {
				return fmt.Errorf("want p0 left out: %v; got %v", want, got)
			}
			return nil
		}
	}
	within(b.T, 10*time.Second, func() error { // what was before there were answers is forgotten
		if got := b.spread(40); len(got) != 4 || seen.Load() == nil {
			return fmt.Errorf("got %v, want all to be asked", got)
		}
		return nil
	})
	bad.Store(true)
	within(b.T, 10*time.Second, gone(true))
	if text := seen.Load(); text == nil || *text != "HEAD check.test" {
		b.Errorf("servers are asked %v, want HEAD check.test", text)
	}
	bad.Store(false)
	within(b.T, 10*time.Second, gone(false))
}

// slowStart adds a server and wants its share to grow.
func (b *l7Balance) slowStart() {
	b.bed.folder.put(b.T, b.name, b.objects(b.pods[:3])...)
	b.settle()
	b.spread(10)
	b.bed.folder.put(b.T, b.name, b.objects(b.pods)...)
	b.settle()
	begun := time.Now()
	early := b.spread(200)
	took := time.Since(begun)
	if took > 3*time.Second {
		b.Skipf("200 requests took %v: the machine is too slow to tell", took)
	}
	if early["p3"] > 40 {
		b.Errorf("within %v: got %v, want few to p3", took, early)
	}
	within(b.T, 15*time.Second, func() error {
		if got := b.spread(200); got["p3"] < 45 {
			return fmt.Errorf("later: got %v, want 50 each", got)
		}
		return nil
	})
}

// repeats makes one server fail, and wants GETs to be asked elsewhere and POSTs never.
func (b *l7Balance) repeats(fail http.HandlerFunc, status int, wanted bool) {
	var failed atomic.Int64
	b.pods[0].answer(func(w http.ResponseWriter, r *http.Request) {
		failed.Add(1)
		fail(w, r)
	})
	got := b.spread(12)
	if n := failed.Load(); n == 0 {
		b.Error("the server that fails was never asked")
	}
	if bad := got[fmt.Sprint(status)]; (bad == 0) != wanted {
		b.Errorf("got %v, want that others are asked: %v", got, wanted)
	}
	b.once(status)
}

// once makes POSTs, each of which may reach one server only.
func (b *l7Balance) once(status int) {
	for _, p := range b.pods {
		p.hits.Store(0)
	}
	bad := 0
	for range 40 {
		if by := b.ask(http.MethodPost, "/"); by == fmt.Sprint(status) {
			bad++
		}
	}
	hits := int64(0)
	for _, p := range b.pods {
		hits += p.hits.Load()
	}
	if hits != 40 || int64(bad) != b.pods[0].hits.Load() {
		b.Errorf("40 POSTs reached servers %d times; %d failed, and the server that fails was asked %d times", hits, bad, b.pods[0].hits.Load())
	}
}

// hang answers no sooner than after two seconds.
func hang(_ http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(2 * time.Second):
	case <-r.Context().Done():
	}
}

func (b *l7Balance) afterTimeout() {
	b.pods[0].answer(hang)
	begun := time.Now()
	if got := b.spread(4); got["504"] > 0 {
		b.Errorf("got %v, want no failure", got)
	}
	if took := time.Since(begun); took < 900*time.Millisecond || took > 4*time.Second {
		b.Errorf("four requests took %v, want one second for the server that hangs", took)
	}
}

// tries lets three of four servers fail: two tries are not always enough.
func (b *l7Balance) tries() {
	for _, p := range b.pods[:3] {
		p.answer(busy)
	}
	hits := func() (n int64) {
		for _, p := range b.pods {
			n += p.hits.Load()
		}
		return n
	}
	for range 30 {
		before := hits()
		by := b.ask(http.MethodGet, "/")
		if n := hits() - before; n > 2 || by == "503" && n != 2 {
			b.Errorf("%d servers were asked for an answer of %s, want 2 at most", n, by)
		}
	}
}

func (b *l7Balance) timeForTries() {
	for _, p := range b.pods {
		p.answer(hang)
	}
	begun := time.Now()
	by := b.ask(http.MethodGet, "/")
	if took := time.Since(begun); by != "504" || took > 1800*time.Millisecond {
		b.Errorf("got %s after %v, want 504 after a second", by, took)
	}
}

func (b *l7Balance) repeatsPost() {
	b.pods[0].answer(busy)
	for range 12 {
		if by := b.ask(http.MethodPost, "/"); by == "503" {
			b.Error("a POST was not sent again")
		}
	}
}
