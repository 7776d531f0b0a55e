package balance

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
)

// A session is the value of a cookie: what finds the endpoint, a dot, and the tag of the
// Pool, which tells the sessions of a canary from those of the primary.
const (
	keyLen = 11 // 64 bits in base64url
	tagLen = 6
)

// key returns what finds the endpoint, or "" if value is not a session of p.
func (p *Pool) key(value string) string {
	if len(value) != keyLen+1+tagLen || value[keyLen] != '.' || value[keyLen+1:] != p.tag {
		return ""
	}
	for i := range keyLen {
		switch c := value[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return ""
		}
	}
	return value[:keyLen]
}

// Owns reports whether value, of a cookie, is a session of the Pool of b.
func (b *Balancer) Owns(value string) bool { return b.cfg.Sticky != nil && b.pool.key(value) != "" }

// session picks the endpoint of q's session, and makes q a session if it has none.
func (b *Balancer) session(pl *plan, q *Pick) *Endpoint {
	key := b.pool.key(q.Session)
	if b.cfg.Sticky.Mode == Persistent {
		return b.persistent(pl, q, key)
	}
	if key == "" {
		return b.newBalanced(pl, q)
	}
	h := hashString(key)
	if b.cfg.Sticky.ChangeOnFailure && len(q.Tried) > 0 && q.tried(pl.winner(h%slots).ep) {
		return b.newBalanced(pl, q)
	}
	if ep := b.byHash(pl, h, q); ep != nil {
		return ep
	}
	return b.remaining(pl, q)
}

// draws is how many new sessions are made to find one whose endpoint is usable.
const draws = 32

// newBalanced makes a session that belongs to an endpoint that may get new ones.
func (b *Balancer) newBalanced(pl *plan, q *Pick) *Endpoint {
	var key string
	for range draws {
		var raw [8]byte
		binary.BigEndian.PutUint64(raw[:], b.rand())
		var text [keyLen]byte
		base64.RawURLEncoding.Encode(text[:], raw[:])
		key = string(text[:])
		if m := pl.winner(hashString(key) % slots); !m.out && !m.left && !q.tried(m.ep) {
			b.renew(q, key)
			return m.ep
		}
	}
	b.renew(q, key)
	ep := b.byHash(pl, hashString(key), q)
	if ep == nil {
		ep = b.remaining(pl, q)
	}
	return ep
}

func (b *Balancer) renew(q *Pick, key string) {
	q.Session, q.Fresh = key+"."+b.pool.tag, true
}

// persistent picks the endpoint that key names. If it is gone, the session moves. If it is out or
// was tried, a stand-in serves that is the same each time.
func (b *Balancer) persistent(pl *plan, q *Pick, key string) *Endpoint {
	ep := pl.sessions[key]
	switch {
	case ep == nil:
	case !q.tried(ep) && !pl.out(ep):
		return ep
	case b.trial(ep, q):
		return ep
	case !b.cfg.Sticky.ChangeOnFailure:
		i := rendezvous(pl.set.usable, pl.equal, hashString(key)%slots, func(m *member) bool { return !q.tried(m.ep) })
		if i < 0 {
			return b.remaining(pl, q)
		}
		return pl.set.usable[i].ep
	}
	ep = b.choose(pl, q)
	b.renew(q, ep.name())
	return ep
}

// out reports whether ep is left out, in the set of pl.
func (pl *plan) out(ep *Endpoint) bool {
	if !ep.shut.Load() && !ep.checkedDown.Load() {
		return false
	}
	for _, list := range [][]member{pl.set.all, pl.set.leaving, pl.set.others} {
		i, ok := slices.BinarySearchFunc(list, member{ep: ep}, member.compare)
		if ok {
			return list[i].out
		}
	}
	return true
}
