package exchange

import "strings"

// A Field is one header field as it is on the wire. HTTP/1.1 keeps the case of names, HTTP/2 has lower case;
// comparing ignores it.
type Field struct {
	Name, Value string
}

// A Header is the fields of a message in their order. Requests have some ten, for
// which a slice is faster than any map. The zero Header is empty.
type Header []Field

// Get returns the value of the first field of that name, or "".
func (h Header) Get(name string) string {
	for i := range h {
		if len(h[i].Name) == len(name) && strings.EqualFold(h[i].Name, name) {
			return h[i].Value
		}
	}
	return ""
}

// Has reports whether there is a field of that name.
func (h Header) Has(name string) bool {
	for i := range h {
		if len(h[i].Name) == len(name) && strings.EqualFold(h[i].Name, name) {
			return true
		}
	}
	return false
}

// Values returns the values of all fields of that name, in their order.
func (h Header) Values(name string) []string {
	var values []string
	for i := range h {
		if len(h[i].Name) == len(name) && strings.EqualFold(h[i].Name, name) {
			values = append(values, h[i].Value)
		}
	}
	return values
}

// Add puts one more field at the end.
func (h *Header) Add(name, value string) { *h = append(*h, Field{Name: name, Value: value}) }

// Set makes value the only one of that name.
func (h *Header) Set(name, value string) {
	for i := range *h {
		if f := &(*h)[i]; len(f.Name) == len(name) && strings.EqualFold(f.Name, name) {
			f.Value = value
			h.cut(i+1, name)
			return
		}
	}
	h.Add(name, value)
}

// Del removes all fields of that name.
func (h *Header) Del(name string) { h.cut(0, name) }

// DelFunc removes the fields for which del is true.
func (h *Header) DelFunc(del func(Field) bool) {
	kept := (*h)[:0]
	for _, f := range *h {
		if !del(f) {
			kept = append(kept, f)
		}
	}
	*h = kept
}

func (h *Header) cut(from int, name string) {
	kept := (*h)[:from]
	for _, f := range (*h)[from:] {
		if len(f.Name) != len(name) || !strings.EqualFold(f.Name, name) {
			kept = append(kept, f)
		}
	}
	*h = kept
}

// Clone returns a copy that shares nothing with h.
func (h Header) Clone() Header { return append(Header(nil), h...) }
