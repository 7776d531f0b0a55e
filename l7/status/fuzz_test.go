package status

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// FuzzQuery asks for anything: the answer is a page that says which of how many it is.
func FuzzQuery(f *testing.F) {
	f.Add("shop cors", "1")
	f.Add("\x00\xff<script>", "-99999999999999999999")
	f.Fuzz(func(t *testing.T, query, page string) {
		v := filled()
		r := httptest.NewRequest("GET", "/?"+url.Values{"q": {query}, "page": {page}}.Encode(), nil)
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		Handler(Config{View: func() View { return v }}).ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%q, %q: %d", query, page, w.Code)
		}
		if p := newPage(document(&v, now()), query, 1<<40); p.Page != p.Pages || p.Page < 1 {
			t.Errorf("page %d of %d", p.Page, p.Pages)
		}
	})
}
