package certs

import (
	"cmp"
	"crypto/tls"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Default is what clients get whose server name has no certificate, or that send none.
type Default struct {
	Pairs  []*Pair
	Reject bool // the handshake is refused (unrecognized_name) instead
}

// A Table finds the certificate for a handshake. It is safe for concurrent use;
// readers never wait.
type Table struct {
	current atomic.Pointer[names]
	seed    maphash.Seed
	mu      sync.Mutex // of writers
}

// shards is how many parts the names are kept in, of which a change copies one.
const shards = 256

// names is the content of a Table, immutable. A wildcard is under its own name, "*.example.com".
type names struct {
	shards   [shards]map[string][]*Pair
	fallback Default
}

// NewTable returns a Table that refuses every handshake.
func NewTable() *Table {
	t := &Table{seed: maphash.MakeSeed()}
	t.current.Store(&names{fallback: Default{Reject: true}})
	return t
}

// Set replaces the whole content. Hosts are exact or wildcards of one label; the case
// and a dot at the end do not matter.
func (t *Table) Set(hosts map[string][]*Pair, d Default) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.store(&names{}, hosts, d)
}

// Update replaces the pairs of the hosts in changes and of no others. No pairs remove a
// host. It costs time in proportion to the changes, not to the Table.
func (t *Table) Update(changes map[string][]*Pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.current.Load()
	t.store(old, changes, old.fallback)
}

// SetDefault replaces the default and nothing else.
func (t *Table) SetDefault(d Default) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.store(t.current.Load(), nil, d)
}

func (t *Table) store(old *names, changes map[string][]*Pair, d Default) {
	next := &names{shards: old.shards, fallback: Default{Pairs: sorted(d.Pairs), Reject: d.Reject}}
	var copied [shards]bool
	for host, pairs := range changes {
		host = normal(host)
		i := t.shard(host)
		if !copied[i] {
			copied[i] = true
			if next.shards[i] = maps.Clone(next.shards[i]); next.shards[i] == nil {
				next.shards[i] = map[string][]*Pair{}
			}
		}
		if len(pairs) == 0 {
			delete(next.shards[i], host)
		} else {
			next.shards[i][host] = sorted(pairs)
		}
	}
	t.current.Store(next)
}

// sorted returns pairs without doubles, in the order in which they are offered to a client.
func sorted(pairs []*Pair) []*Pair {
	out := slices.Clone(pairs)
	slices.SortStableFunc(out, func(a, b *Pair) int { return cmp.Compare(a.rank(), b.rank()) })
	return slices.CompactFunc(out, func(a, b *Pair) bool { return a.Hash == b.Hash })
}

func (t *Table) shard(host string) int { return int(maphash.String(t.seed, host) % shards) }

// Get returns the certificate for hello; it is made for tls.Config.GetCertificate. Without
// one it returns nil, which the client is told as unrecognized_name.
func (t *Table) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	n := t.current.Load()
	pairs := t.find(n, serverName(hello.ServerName))
	if len(pairs) == 0 {
		if pairs = n.fallback.Pairs; n.fallback.Reject || len(pairs) == 0 {
			return nil, nil
		}
	}
	if len(pairs) > 1 {
		for _, p := range pairs {
			if hello.SupportsCertificate(&p.Certificate) == nil {
				return &p.Certificate, nil
			}
		}
	}
	return &pairs[0].Certificate, nil
}

// Has reports whether host has a certificate other than the default: its own or a wildcard's.
// Redirects to https go by it.
func (t *Table) Has(host string) bool {
	return len(t.find(t.current.Load(), serverName(host))) > 0
}

// find returns the pairs for a name, or nil.
func (t *Table) find(n *names, name string) []*Pair {
	if name == "" {
		return nil
	}
	if pairs := n.shards[t.shard(name)][name]; pairs != nil {
		return pairs
	}
	dot := strings.IndexByte(name, '.')
	if dot <= 0 {
		return nil
	}
	// Concatenation of this kind stays on the stack for names up to 32 bytes; a
	// handshake costs so much more that longer ones do not matter.
	wild := "*" + name[dot:]
	return n.shards[t.shard(wild)][wild]
}

// serverName returns a name as it is looked up: in lower case, without a dot at the
// end, and none at all for addresses, which are not allowed there (RFC 6066, 3).
func serverName(sni string) string {
	sni = normal(sni)
	if _, err := netip.ParseAddr(strings.Trim(sni, "[]")); err == nil {
		return ""
	}
	return sni
}

// A HostStatus is the certificates of one host, for people.
type HostStatus struct {
	Host  string // empty for the default
	Pairs []*Pair
}

// Snapshot returns all hosts in order, the default first.
func (t *Table) Snapshot() []HostStatus {
	n := t.current.Load()
	out := []HostStatus{{Pairs: n.fallback.Pairs}}
	for _, shard := range n.shards {
		for host, pairs := range shard {
			out = append(out, HostStatus{host, pairs})
		}
	}
	slices.SortFunc(out[1:], func(a, b HostStatus) int { return strings.Compare(a.Host, b.Host) })
	return out
}
