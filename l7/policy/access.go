package policy

import (
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/l7/exchange"
)

// A prefixSet is a set of prefixes that is asked in a time which depends on how many lengths they have, not on how
// many they are. Nil is the empty set.
type prefixSet struct {
	bits4, bits6 []int
	members      map[netip.Prefix]struct{}
}

func newPrefixSet(list []netip.Prefix) *prefixSet {
	s := &prefixSet{members: map[netip.Prefix]struct{}{}}
	for _, p := range list {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if !p.IsValid() {
			continue
		}
		p = p.Masked()
		s.members[p] = struct{}{}
		bits := &s.bits6
		if p.Addr().Is4() {
			bits = &s.bits4
		}
		if !slices.Contains(*bits, p.Bits()) {
			*bits = append(*bits, p.Bits())
		}
	}
	return s
}

// contains reports whether a is in one of the prefixes. The zero Addr is in none.
func (s *prefixSet) contains(a netip.Addr) bool {
	if s == nil || !a.IsValid() {
		return false
	}
	a = a.Unmap().WithZone("")
	bits := s.bits6
	if a.Is4() {
		bits = s.bits4
	}
	for _, n := range bits {
		p, err := a.Prefix(n)
		if err != nil {
			continue
		}
		if _, ok := s.members[p]; ok {
			return true
		}
	}
	return false
}

// An accessList is the compiled Access.
type accessList struct {
	allow, deny *prefixSet // nil if there is no such list
}

func newAccessList(c *Access) *accessList {
	a := &accessList{}
	if c.Allow != nil {
		a.allow = newPrefixSet(c.Allow)
	}
	if len(c.Deny) != 0 {
		a.deny = newPrefixSet(c.Deny)
	}
	return a
}

// permits reports whether addr may pass. An unknown address does not, if there is any list.
func (a *accessList) permits(addr netip.Addr) bool {
	if !addr.IsValid() || a.deny.contains(addr) {
		return a.allow == nil && a.deny == nil
	}
	return a.allow == nil || a.allow.contains(addr)
}

// Admit refuses clients that the lists keep out.
func (a *accessList) Admit(x *exchange.Exchange) bool {
	if a.permits(client(x)) {
		return true
	}
	x.Answer(403, ReasonDenied)
	return false
}

// access adds the lists by themselves, unless authentication may stand in for them.
func (b *builder) access() error {
	c := b.config.Access
	if c == nil || b.either() || c.Allow == nil && len(c.Deny) == 0 {
		return nil
	}
	b.stage(newAccessList(c))
	return nil
}

// either reports whether an address or authentication is enough.
func (b *builder) either() bool {
	c := b.config
	return c.Access != nil && c.Access.Except && (c.BasicAuth != nil || c.ExtAuth != nil)
}

// gate adds access lists and authentication next to each other.
func (b *builder) gate() error {
	if err := b.access(); err != nil {
		return err
	}
	return b.auth()
}

// auth adds basic and external authentication. With Access.Except, clients that are on the list
// of allowed addresses skip them. As in nginx, only being on that list counts: not being on the list of
// denied ones is no merit.
func (b *builder) auth() error {
	var stages []exchange.Stage
	basic, err := b.basicAuth()
	if err != nil {
		return err
	}
	external, err := b.extAuth()
	if err != nil {
		return err
	}
	if basic != nil {
		stages = append(stages, basic)
	}
	if external != nil {
		stages = append(stages, external)
	}
	if b.either() {
		b.stage(&satisfyAny{list: newAccessList(b.config.Access), auth: stages})
	} else {
		b.pipeline.Stages = append(b.pipeline.Stages, stages...)
	}
	if basic != nil {
		b.stage(dropAuthorization{})
	}
	return nil
}

// satisfyAny lets in who is on the list of allowed addresses, and who authenticates.
type satisfyAny struct {
	list *accessList
	auth []exchange.Stage
}

// Admit asks for authentication unless the address is enough.
func (s *satisfyAny) Admit(x *exchange.Exchange) bool {
	if s.list.allow != nil && s.list.permits(client(x)) {
		s.strip(x)
		return true
	}
	for _, a := range s.auth {
		if !a.Admit(x) {
			return false
		}
	}
	return true
}

// strip removes what only authentication may say, since it has said nothing.
func (s *satisfyAny) strip(x *exchange.Exchange) {
	for _, a := range s.auth {
		if e, ok := a.(*extAuth); ok {
			e.strip(x)
		}
	}
}

// dropAuthorization keeps the password of basic authentication from the backend, whom it does not concern.
type dropAuthorization struct{}

func (dropAuthorization) Admit(x *exchange.Exchange) bool {
	x.Request.Header.Del("Authorization")
	return true
}
