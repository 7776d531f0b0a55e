//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/l7/balance"
	"github.com/fairlead-project/fairlead/l7/certs"
	"github.com/fairlead-project/fairlead/l7/status"
	"github.com/fairlead-project/fairlead/service"
)

// The size of the browser's window in these tests.
const (
	browserWidth  = 1400
	browserHeight = 1100
)

// chromium returns the path of the browser, or skips.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	release, _ := os.ReadFile("/etc/os-release")
	debian := strings.Contains("\n"+string(release), "\nID=debian\n")
	if os.Getenv(world.Require) == "1" && debian {
		t.Fatalf("%s is set, and there is no Chromium: install the package chromium", world.Require)
	}
	t.Skip("there is no Chromium; Debian's package chromium has one")
	return ""
}

// chromiumFlags are for a browser that keeps nothing, asks nobody but the page, and may run as root.
func chromiumFlags(t *testing.T, more ...string) []string {
	return append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--disable-sync",
		"--disable-background-networking", "--disable-component-update", "--no-default-browser-check", "--no-proxy-server", "--hide-scrollbars",
		"--blink-settings=preferredColorScheme=1", // light
		"--user-data-dir=" + t.TempDir(), fmt.Sprintf("--window-size=%d,%d", browserWidth, browserHeight),
	}, more...)
}

// statusView has something of everything, and names that would break a page made carelessly.
func statusView() status.View {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	at := netip.MustParseAddrPort
	certificate := func(host string, left time.Duration) certs.HostStatus {
		leaf := &x509.Certificate{
			Subject: pkix.Name{CommonName: host}, Issuer: pkix.Name{CommonName: "CA"}, DNSNames: []string{host},
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(left), PublicKeyAlgorithm: x509.ECDSA,
		}
		return certs.HostStatus{Host: host, Pairs: []*certs.Pair{{Certificate: tls.Certificate{Leaf: leaf}}}}
	}
	return status.View{
		Version: "v1.2.3", Started: now.Add(-time.Hour), Now: now, Generation: 42, Applied: now.Add(-time.Minute), Serving: true,
		Classes:   []status.Class{{Name: "nginx", Controller: "k8s.io/ingress-nginx", Dialect: "nginx", Ingresses: 2}},
		Listeners: []status.Listener{{Name: "https", Address: "[::]:443", Protocol: "HTTP/2", Open: 3, Accepted: 77}},
		Hosts: []status.Host{
			{Name: "shop.example.com", Dialect: "nginx", TLS: true, Paths: []status.Path{
				{Path: "/a", Kind: "Prefix", Ingress: "shop/web", Backend: "shop/front:http", Policies: []string{"cors"}, Canary: "shop/next:80"},
				{Path: `/<script>document.title="owned"</script>`, Kind: "Exact", Ingress: `shop/"><img src=x onerror="document.title='owned'">`, Backend: "shop/api:80", Refused: "a Secret is missing"},
			}},
			{Name: "blog.example.com", Dialect: "strict", Paths: []status.Path{{Path: "/", Kind: "Prefix", Ingress: "blog/blog", Backend: "blog/blog:80"}}},
		},
		Backends: []status.Backend{
			{Name: "shop/front:http", Endpoints: []balance.EndpointStatus{
				{Addr: at("10.244.1.4:8080"), Weight: 1, Requests: 100, SlowStart: 1, Used: true}, {Addr: at("[fd00::5]:8080"), SlowStart: 1, Ejected: 8 * time.Second},
			}},
			{Name: "shop/api:80", Endpoints: []balance.EndpointStatus{{Addr: at("10.244.2.4:80"), SlowStart: 1, CheckErr: errors.New("status 500")}}},
		},
		Certificates: []certs.HostStatus{certificate("shop.example.com", 1000*time.Hour), certificate("blog.example.com", -time.Hour)},
		Problems: []service.Problem{{
			Object: service.Object{Kind: "Secret", Name: service.Name{Namespace: "blog", Name: "tls"}}, Reason: "CertExpired", Message: "the certificate has ended & <b>nobody</b> renews it",
		}},
		Counters: []status.Counter{{Name: "retries", Value: 5}},
	}
}

// TestL7StatusChromium looks at the status page with a real browser: what is in the document after its script has run, and
// what is on the screen.
func TestL7StatusChromium(t *testing.T) {
	browser := chromium(t)
	server := httptest.NewServer(status.Handler(status.Config{View: statusView}))
	defer server.Close()
	shot := filepath.Join(t.TempDir(), "status.png")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, chromiumFlags(t, "--screenshot="+shot, "--dump-dom", server.URL)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	dom, err := html.Parse(&out)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("document", func(t *testing.T) { checkStatusDOM(t, dom) })
	t.Run("screen", func(t *testing.T) { checkStatusScreen(t, shot) })
	if strings.Contains(errs.String(), "Content Security Policy") {
		t.Errorf("the page breaks its own policy: %s", errs.String())
	}
}

func checkStatusDOM(t *testing.T, dom *html.Node) {
	for section, want := range map[string][]string{
		"problems": {"Secret blog/tls | [degraded] CertExpired |  | the certificate has ended & <b>nobody</b> renews it"},
		"hosts": {
			"blog.example.com | / | Prefix | blog/blog | blog/blog:80 |",
			`shop.example.com TLS | /<script>document.title="owned"</script> | Exact | shop/"><img src=x onerror="document.title='owned'"> | [down] shop/api:80 refused a Secret is missing |`,
			"shop.example.com TLS | /a | Prefix | shop/web | shop/front:http canary shop/next:80 | cors",
		},
		"backends": {
			"shop/api:80 | [down] down | 10.244.2.4:80 | [unhealthy] unhealthy status 500 | 0 | 0 | 0 | 0 |",
			"shop/front:http | [degraded] degraded | 10.244.1.4:8080 | [used] used | 1 | 0 | 100 | 0 |",
			"shop/front:http | [degraded] degraded | [fd00::5]:8080 | [ejected] ejected for 8s | 0 | 0 | 0 | 0 |",
		},
		"certificates": {
			"blog.example.com | [expired] expired | 2026-03-04 04:06:07 UTC | CN=blog.example.com | CN=CA | blog.example.com | ECDSA",
			"shop.example.com | [good] good | 2026-04-14 21:06:07 UTC | CN=shop.example.com | CN=CA | shop.example.com | ECDSA",
		},
		"listeners": {"https | [::]:443 | HTTP/2 | 3 | 77 | [good] open"},
		"counters":  {"retries | 5"},
	} {
		if d := cmp.Diff(domRows(domID(dom, section)), want); d != "" {
			t.Errorf("%s (-got +want):\n%s", section, d)
		}
	}
	if got := domText(domFirst(dom, func(n *html.Node) bool { return n.Data == "title" })); got != "fairlead: ready, problems: 1" {
		t.Errorf("the title is %q: a name has run as a script, or the page is another", got)
	}
	if root := domFirst(dom, func(n *html.Node) bool { return n.Data == "html" }); domAttr(root, "data-script") != "on" {
		t.Error("the script of the page has not run")
	}
	if img := domFirst(dom, func(n *html.Node) bool { return n.Data == "img" }); img != nil {
		t.Error("a name has become an image")
	}
}

// checkStatusScreen looks at a picture of the page: text and states are there, the latter in their colours.
func checkStatusScreen(t *testing.T, path string) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if size := img.Bounds().Size(); size != image.Pt(browserWidth, browserHeight) {
		t.Errorf("the picture has %v, want %dx%d", size, browserWidth, browserHeight)
	}
	counts := map[color.RGBA]int{}
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			counts[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)]++
		}
	}
	if len(counts) < 50 {
		t.Errorf("the picture has %d colours, want at least 50", len(counts))
	}
	// Each dot in front of a state has more than 20 pixels of one colour. How many dots there are is in statusView.
	for name, want := range map[string]struct {
		colour color.RGBA
		dots   int
	}{
		"good": {color.RGBA{0x1a, 0x7f, 0x37, 255}, 4}, "degraded": {color.RGBA{0x9a, 0x67, 0x00, 255}, 2}, "bad": {color.RGBA{0xcf, 0x22, 0x2e, 255}, 5},
	} {
		if n := counts[want.colour]; n < 20*want.dots {
			t.Errorf("%d pixels in the colour of %s, want at least %d", n, name, 20*want.dots)
		}
	}
}

// TestL7StatusTyping types into the filter of the page, which hides rows by script alone.
func TestL7StatusTyping(t *testing.T) {
	path := chromium(t)
	server := httptest.NewServer(status.Handler(status.Config{View: statusView}))
	defer server.Close()
	b := openBrowser(t, path, server.URL)
	visible := `[...document.querySelectorAll("#hosts tbody tr")].filter((r) => r.offsetParent !== null).map((r) => r.querySelector("code").textContent).join(" ")`
	if got := b.eval(visible); got != `/ /<script>document.title="owned"</script> /a` {
		t.Errorf("rows at first: %q", got)
	}
	b.eval(`document.getElementById("filter").focus(), ""`)
	b.insert("shop CORS")
	if got := b.eval(visible); got != "/a" {
		t.Errorf("rows with the words typed: %q, want /a", got)
	}
	host := `[...document.querySelectorAll("#hosts tbody tr")].filter((r) => r.offsetParent !== null).map((r) => getComputedStyle(r.querySelector("th")).color).join(" ")`
	if got := b.eval(host); got != "rgb(0, 0, 0)" {
		t.Errorf("the host of the row that is left has the colour %q: it cannot be read", got)
	}
	b.eval(`document.getElementById("filter").select(), ""`)
	b.insert("blog")
	if got := b.eval(visible); got != "/" {
		t.Errorf("rows with other words: %q, want /", got)
	}
	if got := b.eval(`String(document.querySelector("button").offsetParent)`); got != "null" {
		t.Error("the button is there though the script runs")
	}
	colours := `[...document.querySelectorAll("#certificates .state")].map((s) => getComputedStyle(s).color).join(" ")`
	if got := b.eval(colours); got != "rgb(207, 34, 46) rgb(26, 127, 55)" {
		t.Errorf("an expired and a good certificate have the colours %q", got)
	}
	if got := b.eval(`fetch("/status.json").then(() => "loaded", () => "refused")`); got != "refused" {
		t.Errorf("a script could load something: %q", got)
	}
	b.eval(`document.querySelector("form").submit(), ""`)
	b.loaded(server.URL + "/?q=blog")
	if got := b.eval(visible); got != "/" {
		t.Errorf("rows after the form was sent: %q, want /", got)
	}
	if resp, err := http.Get(server.URL + "/status.json"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("/status.json: %v, %v", resp, err)
	} else if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
}

func domFirst(n *html.Node, is func(*html.Node) bool) *html.Node {
	for d := range n.Descendants() {
		if d.Type == html.ElementNode && is(d) {
			return d
		}
	}
	return nil
}

func domID(n *html.Node, id string) *html.Node {
	return domFirst(n, func(e *html.Node) bool { return domAttr(e, "id") == id })
}

func domAttr(n *html.Node, key string) string {
	if n == nil {
		return ""
	}
	i := slices.IndexFunc(n.Attr, func(a html.Attribute) bool { return a.Key == key })
	if i < 0 {
		return ""
	}
	return n.Attr[i].Val
}

func domText(n *html.Node) string {
	if n == nil {
		return ""
	}
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// domRows returns the rows below n without those of the head, each cell with its state in brackets.
func domRows(n *html.Node) []string {
	if n == nil {
		return nil
	}
	var rows []string
	for tr := range n.Descendants() {
		if tr.Data != "tr" || tr.Parent.Data != "tbody" {
			continue
		}
		var cells []string
		for c := range tr.ChildNodes() {
			if c.Type != html.ElementNode {
				continue
			}
			text := domText(c)
			if state := domAttr(c, "data-state"); state != "" {
				text = "[" + state + "] " + text
			}
			cells = append(cells, text)
		}
		rows = append(rows, strings.TrimSpace(strings.Join(cells, " | ")))
	}
	return rows
}
