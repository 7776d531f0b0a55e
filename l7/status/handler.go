package status

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page is part of the program
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

// A Config is what a Handler needs.
type Config struct {
	// Allow is who may look, by the address of the connection's other end. Empty: this machine alone.
	Allow []netip.Prefix
	View  func() View // required; several may call it at a time
	Log   *slog.Logger
}

// A handler is the status page.
type handler struct {
	allow  []netip.Prefix
	view   func() View
	log    *slog.Logger
	page   *template.Template
	policy string // Content-Security-Policy
}

// Handler returns the status page. Requests from addresses that are not allowed get 403, whatever they ask for.
func Handler(c Config) http.Handler {
	h := &handler{allow: slices.Clone(c.Allow), view: c.View, log: c.Log}
	if len(h.allow) == 0 {
		h.allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.page = template.Must(template.New("page").Funcs(pageFuncs()).Parse(pageHTML))
	// Nothing is loaded from anywhere, and nothing runs but the style and the script of the page.
	h.policy = "default-src 'none'; style-src " + hash(pageCSS) + "; script-src " + hash(pageJS) +
		"; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	return h
}

// hash returns the source by which a Content-Security-Policy allows exactly that text.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// ServeHTTP answers.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	switch {
	case !h.allowed(r.RemoteAddr):
		http.Error(w, "your address may not see this", http.StatusForbidden)
	case r.URL.Path != "/" && r.URL.Path != "/status.json":
		http.Error(w, "there are / and /status.json", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		head.Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
	case r.URL.Path == "/":
		h.html(w, r)
	default:
		h.json(w)
	}
}

// allowed reports whether a peer may look. An address that cannot be read may not.
func (h *handler) allowed(peer string) bool {
	ap, err := netip.ParseAddrPort(peer)
	if err != nil {
		return false
	}
	a := ap.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(h.allow, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (h *handler) document() *Document {
	v := h.view()
	return document(&v, time.Now())
}

func (h *handler) json(w http.ResponseWriter) {
	body, err := json.MarshalIndent(h.document(), "", " ")
	if err != nil {
		h.failed(w, fmt.Errorf("write the status as JSON: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	h.send(w, append(body, '\n'))
}

func (h *handler) html(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	number, err := strconv.Atoi(q.Get("page"))
	if err != nil {
		number = 1
	}
	var body bytes.Buffer
	if err := h.page.Execute(&body, newPage(h.document(), q.Get("q"), number)); err != nil {
		h.failed(w, fmt.Errorf("write the status page: %w", err))
		return
	}
	head := w.Header()
	head.Set("Content-Type", "text/html; charset=utf-8")
	head.Set("Content-Security-Policy", h.policy)
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("X-Frame-Options", "DENY")
	h.send(w, body.Bytes())
}

func (h *handler) send(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if _, err := w.Write(body); err != nil {
		h.log.Debug("the status page was not read to its end", "err", err)
	}
}

func (h *handler) failed(w http.ResponseWriter, err error) {
	h.log.Error("status page", "err", err)
	http.Error(w, "the page cannot be made; the log says why", http.StatusInternalServerError)
}
