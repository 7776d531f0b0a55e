package certs

import (
	"runtime"
	"sync"
	"weak"
)

// A Cache parses the same bytes once: a wildcard certificate that a hundred
// namespaces hold is one Pair. It keeps nothing that nobody else does. The zero value
// is ready and safe for concurrent use.
type Cache struct {
	mu    sync.Mutex
	pairs map[[32]byte]weak.Pointer[Pair]
}

// Parse is the function of that name. Errors are not remembered.
func (c *Cache) Parse(crt, key []byte) (*Pair, error) {
	hash := hashOf(crt, key)
	if p := c.get(hash); p != nil {
		return p, nil
	}
	p, err := Parse(crt, key)
	if err != nil {
		return nil, err
	}
	return c.put(hash, p), nil
}

func (c *Cache) get(hash [32]byte) *Pair {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pairs[hash].Value()
}

// put remembers p, unless somebody was faster.
func (c *Cache) put(hash [32]byte, p *Pair) *Pair {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.pairs[hash].Value(); old != nil {
		return old
	}
	if c.pairs == nil {
		c.pairs = map[[32]byte]weak.Pointer[Pair]{}
	}
	c.pairs[hash] = weak.Make(p)
	runtime.AddCleanup(p, c.forget, hash)
	return p
}

func (c *Cache) forget(hash [32]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pairs[hash].Value() == nil {
		delete(c.pairs, hash)
	}
}
