package route

import (
	"iter"
	"maps"
	"strings"
)

// shards is into how many parts a Table is cut. A change copies the parts it touches: of
// 100,000 hosts, some 400 entries.
const shards = 256

// A Table finds the Host of a request. It is immutable; the zero value is empty.
type Table[T any] struct {
	shards [shards]map[string]*Host[T]
	len    int
}

// With returns a table with some hosts replaced; nil removes one. The keys are names as
// ParseHost returns them, "*.example.com" for all names with one label more, and "" for requests to hosts
// that nobody has named. t, which may be nil, stays as it is.
func (t *Table[T]) With(changes map[string]*Host[T]) *Table[T] {
	var next Table[T]
	if t != nil {
		next = *t
	}
	var copied [shards]bool
	for name, h := range changes {
		key := keyOf(name)
		i := shardOf(key)
		if !copied[i] {
			copied[i] = true
			next.shards[i] = maps.Clone(next.shards[i])
		}
		s := next.shards[i]
		before := len(s)
		switch {
		case h == nil:
			delete(s, key)
		case s == nil:
			s = map[string]*Host[T]{key: h}
			next.shards[i] = s
		default:
			s[key] = h
		}
		next.len += len(s) - before
	}
	return &next
}

// Find returns the Host that serves requests to host, or nil. The choice is exclusive: that
// none of its paths match does not send a request elsewhere. The exact name comes first, then
// the wildcard that covers it, then "".
func (t *Table[T]) Find(host string) *Host[T] {
	if t == nil {
		return nil
	}
	if host != "" && host[0] != '.' {
		if h := t.get(host); h != nil {
			return h
		}
		// Beginning with the dot, the rest of the name is the key of the wildcard.
		if i := strings.IndexByte(host, '.'); i > 0 {
			if h := t.get(host[i:]); h != nil {
				return h
			}
		}
	}
	return t.get("")
}

// Lookup finds the rule for a canonical path at a host. It returns false if there is no such host,
// or if none of its paths match and it has no fallback. It does not allocate.
func (t *Table[T]) Lookup(host, path string) (Match[T], bool) {
	return t.Find(host).Lookup(path)
}

// Get returns the Host with exactly that key, which may be a wildcard or "", or nil.
func (t *Table[T]) Get(name string) *Host[T] {
	if t == nil {
		return nil
	}
	return t.get(keyOf(name))
}

// Len returns the number of hosts.
func (t *Table[T]) Len() int {
	if t == nil {
		return 0
	}
	return t.len
}

// All yields the hosts with their keys, in no order.
func (t *Table[T]) All() iter.Seq2[string, *Host[T]] {
	return func(yield func(string, *Host[T]) bool) {
		if t == nil {
			return
		}
		for i := range t.shards {
			for key, h := range t.shards[i] {
				if strings.HasPrefix(key, ".") {
					key = "*" + key
				}
				if !yield(key, h) {
					return
				}
			}
		}
	}
}

func (t *Table[T]) get(key string) *Host[T] { return t.shards[shardOf(key)][key] }

// keyOf returns what name is stored under: a wildcard without its star, which no host can be spelled as.
func keyOf(name string) string {
	if strings.HasPrefix(name, "*.") {
		return name[1:]
	}
	return name
}

// shardOf spreads keys by FNV-1a. Whoever chose keys to fall together would only make
// changes slower.
func shardOf(key string) uint8 {
	h := uint32(2166136261)
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return uint8(h ^ h>>8 ^ h>>16 ^ h>>24)
}
