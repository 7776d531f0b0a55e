package status

import (
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// perPage is how much of each list a page shows.
const perPage = 500

// maxQuery bounds the text to look for.
const maxQuery = 256

// A page is what the template shows: the part of a Document that was asked for.
type page struct {
	Document
	Total         totals
	Query         string
	Page, Pages   int
	Back, Forward string // links; empty: there is no such page
	Style         template.CSS
	Script        template.JS
}

// totals are how many rows there are on all pages.
type totals struct{ Problems, Hosts, Backends, Certificates, Listeners, Classes int }

// newPage returns the page of that number, or the nearest that there is, of the rows that have all the words of the query.
func newPage(d *Document, query string, number int) *page {
	query = strings.ToValidUTF8(strings.TrimSpace(query[:min(len(query), maxQuery)]), "�")
	p := &page{Document: *d, Query: query, Style: template.CSS(pageCSS), Script: template.JS(pageJS)}
	p.filter(strings.Fields(strings.ToLower(query)))
	p.Total = totals{len(p.Problems), len(p.Hosts), len(p.Backends), len(p.Certificates), len(p.Listeners), len(p.Classes)}
	longest := max(p.Total.Problems, p.Total.Hosts, p.Total.Backends, p.Total.Certificates)
	p.Pages = max(1, (longest+perPage-1)/perPage)
	p.Page = min(max(number, 1), p.Pages)
	if p.Page > 1 {
		p.Back = link(query, p.Page-1)
	}
	if p.Page < p.Pages {
		p.Forward = link(query, p.Page+1)
	}
	p.Problems = part(p.Problems, p.Page)
	p.Hosts = part(p.Hosts, p.Page)
	p.Backends = part(p.Backends, p.Page)
	p.Certificates = part(p.Certificates, p.Page)
	return p
}

func link(query string, number int) string {
	v := url.Values{"page": {strconv.Itoa(number)}}
	if query != "" {
		v.Set("q", query)
	}
	return "/?" + v.Encode()
}

// part returns what of a list is on a page.
func part[T any](list []T, number int) []T {
	from := min((number-1)*perPage, len(list))
	return list[from:min(from+perPage, len(list))]
}

// filter leaves the rows in which all words are.
func (p *page) filter(words []string) {
	if len(words) == 0 {
		return
	}
	p.Problems = having(p.Problems, words, func(x *DocumentProblem) []string {
		return []string{x.Kind, x.Namespace + "/" + x.Name, x.Reason, x.Field, x.Message}
	})
	var hosts []DocumentHost
	for _, h := range p.Hosts {
		all := len(h.Paths)
		h.Paths = having(h.Paths, words, func(x *DocumentPath) []string {
			return append([]string{h.Name, h.AliasOf, h.Passthrough, x.Path, x.Kind, x.Ingress, x.Backend, x.Canary, x.Refused}, x.Policies...)
		})
		if len(h.Paths) > 0 || all == 0 && has([]string{h.Name, h.AliasOf, h.Passthrough}, words) {
			hosts = append(hosts, h)
		}
	}
	p.Hosts = hosts
	var backends []DocumentBackend
	for _, b := range p.Backends {
		all := len(b.Endpoints)
		b.Endpoints = having(b.Endpoints, words, func(x *DocumentEndpoint) []string {
			return []string{b.Name, b.State, x.Address.String(), x.State, x.Why}
		})
		if len(b.Endpoints) > 0 || all == 0 && has([]string{b.Name, b.State, b.Problem}, words) {
			backends = append(backends, b)
		}
	}
	p.Backends = backends
	p.Certificates = having(p.Certificates, words, func(x *DocumentCertificate) []string {
		return append([]string{x.Host, x.State, x.Subject, x.Issuer}, x.Names...)
	})
}

// having returns the elements in whose texts all words are.
func having[T any](list []T, words []string, texts func(*T) []string) []T {
	var out []T
	for i := range list {
		if has(texts(&list[i]), words) {
			out = append(out, list[i])
		}
	}
	return out
}

func has(texts, words []string) bool {
	all := strings.ToLower(strings.Join(texts, "\n"))
	for _, w := range words {
		if !strings.Contains(all, w) {
			return false
		}
	}
	return true
}

func pageFuncs() template.FuncMap {
	return template.FuncMap{
		"show":    show,
		"time":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"percent": func(f float64) string { return fmt.Sprintf("%.0f %%", f*100) },
		"seconds": func(s float64) string {
			return time.Duration(s * float64(time.Second)).Round(100 * time.Microsecond).String()
		},
	}
}

// show makes bytes visible that could make a text look like another: control characters, and those that turn the direction
// of what follows. Markup is escaped by html/template.
func show(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			fmt.Fprintf(&b, "\\u{%X}", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hidden(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }
