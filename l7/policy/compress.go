package policy

import (
	"fmt"
	"strings"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A compressor is the compiled Compress.
type compressor struct {
	pools        *compressors
	gzip, brotli int
	minLength    int64
	types        map[string]bool
	all          bool
}

func (b *builder) compress() error {
	c := b.config.Compress
	if c == nil || c.Gzip == 0 && c.Brotli == 0 {
		return nil
	}
	if err := b.shared("compression"); err != nil {
		return err
	}
	if c.Gzip < 0 || c.Gzip > maxGzip || c.Brotli < 0 || c.Brotli > maxBrotli {
		return fmt.Errorf("compression: there is no level %d of gzip, or no level %d of brotli", c.Gzip, c.Brotli)
	}
	f := &compressor{pools: b.env.Shared.compressors, gzip: c.Gzip, brotli: c.Brotli, minLength: int64(c.MinLength), types: map[string]bool{}}
	for _, t := range c.Types {
		f.types[strings.ToLower(strings.TrimSpace(t))] = true
	}
	f.all = f.types["*"] || f.types["*/*"]
	b.filter(f)
	return nil
}

// Apply makes the body of x smaller on its way, if the client takes that and it is worth it.
func (f *compressor) Apply(x *exchange.Exchange) {
	r := x.Response
	if !f.eligible(r) {
		return
	}
	vary(&r.Header, "Accept-Encoding")
	if r.Body == nil || x.Request.Method == "HEAD" || x.Request.Protocol == exchange.HTTP10 {
		return
	}
	encoding := accepts(x.Request.Header).choose(f.gzip > 0, f.brotli > 0)
	if encoding == "" {
		return
	}
	level := f.gzip
	if encoding == "br" {
		level = f.brotli
	}
	r.Body = f.pools.reader(r.Body, encoding, level)
	r.Length = exchange.Unknown
	h := &r.Header
	h.Set("Content-Encoding", encoding)
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		h.Set("ETag", "W/"+tag) // the bytes are others, what they mean is the same
	}
	// What says something about bytes says it about others.
	for _, name := range [...]string{"Accept-Ranges", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest"} {
		h.Del(name)
	}
}

// eligible reports whether an answer may be compressed for whoever takes it.
func (f *compressor) eligible(r *exchange.Response) bool {
	if r.Status < 200 || r.Status == 204 || r.Status == 205 || r.Status == 206 || r.Status == 304 {
		return false
	}
	if r.Length != exchange.Unknown && r.Length < max(f.minLength, 1) {
		return false
	}
	kind := ""
	for _, field := range r.Header {
		switch {
		case strings.EqualFold(field.Name, "Content-Type"):
			kind, _, _ = strings.Cut(field.Value, ";")
			kind = strings.ToLower(strings.TrimSpace(kind))
		case strings.EqualFold(field.Name, "Content-Encoding"):
			if !strings.EqualFold(strings.TrimSpace(field.Value), "identity") {
				return false
			}
		case strings.EqualFold(field.Name, "Content-Range"):
			return false
		case strings.EqualFold(field.Name, "Cache-Control"):
			if strings.Contains(strings.ToLower(field.Value), "no-transform") {
				return false
			}
		}
	}
	// Events have to arrive one by one, and gRPC has its own compression.
	if kind == "text/event-stream" || strings.HasPrefix(kind, "application/grpc") {
		return false
	}
	major, _, _ := strings.Cut(kind, "/")
	return f.all || kind != "" && (f.types[kind] || f.types[major+"/*"])
}
