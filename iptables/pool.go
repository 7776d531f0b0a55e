package iptables

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
)

const (
	// directPool is how many endpoints a chain picks from itself. A larger pool is
	// a tree: each of its chains picks one of sixteen. A longer walk costs every
	// new connection, and longer chains every change.
	directPool = 16

	// poolLevels bounds the way through that tree, see maxLevels. A chain on the
	// last level is a list, however long: of 20 endpoints in a pool of 5,000.
	poolLevels = 3
)

// pool adds the chains for a pool and returns the name of the first, which begins with
// the rules of head.
func (pl *planner) pool(p *service.Port, pool service.Pool, head []xt.Rule, out *portPlan) string {
	b := poolTree{port: p, out: out, written: pl.written}
	parts := b.parts()
	for i := range head {
		parts = append(parts, head[i].Text())
	}
	var list []branch
	if len(pool) <= directPool {
		parts = append(parts, contents(pool)...)
	} else {
		list = b.split(pool, 0)
		parts = append(parts, "tree")
		for i := range list {
			parts = append(parts, list[i].name)
		}
	}
	name := hashed(prefixPool, parts...)
	if out.has(name) {
		return name
	}
	b.add(name, func() []xt.Rule {
		if list != nil {
			return slices.Concat(head, b.checksOf(list), b.pickOf(list))
		}
		return slices.Concat(head, b.checks(pool), b.pick(pool))
	})
	for _, ep := range pool {
		pl.caller(p, ep, out)
	}
	return name
}

func (out *portPlan) has(chain string) bool {
	return slices.ContainsFunc(out.chains, func(c xt.Chain) bool { return c.Name == chain })
}

// add adds a chain, and its rules if they are needed.
func (b *poolTree) add(chain string, render func() []xt.Rule) {
	c := xt.Chain{Name: chain}
	if !b.written(chain) {
		c.Rules = render()
	}
	b.out.chains = append(b.out.chains, c)
}

// A poolTree renders the pools of a Port. The place of an endpoint in it follows from
// its address, so that a change of one endpoint changes the chains on the way to
// it and no others. Chains are named by what they contain, and so those of all other
// ways keep their names.
type poolTree struct {
	port    *service.Port
	out     *portPlan
	written func(chain string) bool
}

// A branch is a part of a pool.
type branch struct {
	pool   service.Pool
	name   string // of the chain that picks from it; an endpoint's address if it is the only one
	checks string // of the chain that looks for its clients, with affinity
}

// parts begins what the name of a chain is made of: what all endpoints of the Port
// have in common.
func (b *poolTree) parts() []string {
	parts := []string{b.port.ID.Protocol.String()}
	if b.port.Affinity > 0 {
		parts = append(parts, b.port.ID.String(), seconds(b.port.Affinity))
	}
	return parts
}

// split cuts a pool into the branches of a chain on a level, from 0, after adding the
// chains behind them.
func (b *poolTree) split(pool service.Pool, level int) []branch {
	var byDigit [16]service.Pool
	for _, ep := range pool {
		d := digit(ep.Addr, level)
		byDigit[d] = append(byDigit[d], ep)
	}
	var out []branch
	for _, part := range byDigit {
		if len(part) > 0 {
			out = append(out, b.branch(part, level+1))
		}
	}
	return out
}

// branch adds the chains for a part of a pool.
func (b *poolTree) branch(pool service.Pool, level int) branch {
	if len(pool) == 1 {
		return branch{pool: pool, name: contents(pool)[0]}
	}
	var parts []string
	var list []branch
	if len(pool) <= directPool || level == poolLevels-1 {
		parts = contents(pool)
	} else {
		list = b.split(pool, level)
		for i := range list {
			parts = append(parts, list[i].name)
		}
	}
	out := branch{pool: pool, name: hashed(prefixPool, slices.Concat([]string{"group"}, b.parts(), parts)...)}
	b.add(out.name, func() []xt.Rule {
		if list != nil {
			return b.pickOf(list)
		}
		return b.pick(pool)
	})
	if b.port.Affinity > 0 {
		out.checks = hashed(prefixPool, slices.Concat([]string{"clients"}, b.parts(), parts)...)
		b.add(out.checks, func() []xt.Rule {
			if list != nil {
				return b.checksOf(list)
			}
			return b.checks(pool)
		})
	}
	return out
}

// checks sends clients that an endpoint of the pool has, where affinity is asked for,
// to that endpoint. There is one rule for each: the kernel keeps lists of clients,
// and cannot be asked for the endpoint of one.
func (b *poolTree) checks(pool service.Pool) []xt.Rule {
	if b.port.Affinity == 0 {
		return nil
	}
	rules := make([]xt.Rule, 0, 2*len(pool))
	for _, ep := range pool {
		back := xt.RecentCheck{Name: clientsName(b.port, ep), Seconds: int(b.port.Affinity / time.Second), Refresh: true}
		rules = append(rules, translate(b.port, ep, back))
	}
	return rules
}

// checksOf does so for all branches, one after the other.
func (b *poolTree) checksOf(list []branch) []xt.Rule {
	if b.port.Affinity == 0 {
		return nil
	}
	rules := make([]xt.Rule, 0, 2*len(list))
	for _, part := range list {
		if part.checks == "" {
			rules = append(rules, b.checks(part.pool)...)
		} else {
			rules = append(rules, xt.Rule{Target: xt.Jump{Chain: part.checks}})
		}
	}
	return rules
}

// pick renders the choice of one endpoint of a pool, each with the chance its
// weight gives it, and remembers the client where affinity is asked for.
func (b *poolTree) pick(pool service.Pool) []xt.Rule {
	rules := make([]xt.Rule, 0, len(pool))
	left := shares(pool)
	for _, ep := range pool {
		rules = append(rules, b.take(ep, left))
		left -= ep.Share()
	}
	return rules
}

// pickOf renders the choice of one branch.
func (b *poolTree) pickOf(list []branch) []xt.Rule {
	left := 0
	for _, part := range list {
		left += shares(part.pool)
	}
	rules := make([]xt.Rule, 0, len(list))
	for _, part := range list {
		if len(part.pool) == 1 {
			rules = append(rules, b.take(part.pool[0], left))
		} else {
			rules = append(rules, xt.Rule{Match: chance(shares(part.pool), left), Target: xt.Goto{Chain: part.name}})
		}
		left -= shares(part.pool)
	}
	return rules
}

// take sends packets to one endpoint with the chance of its weight in left.
func (b *poolTree) take(ep service.Endpoint, left int) xt.Rule {
	m := chance(ep.Share(), left)
	if b.port.Affinity > 0 {
		m = append(m, xt.RecentSet{Name: clientsName(b.port, ep)})
	}
	return translate(b.port, ep, m...)
}

// contents returns what tells pool from another one, as parts of a name: its
// addresses, and weights as far as there are any.
func contents(pool service.Pool) []string {
	parts := make([]string, 0, len(pool))
	for _, ep := range pool {
		part := ep.Addr.String()
		if n := ep.Share(); n != 1 {
			part += "*" + strconv.Itoa(n)
		}
		parts = append(parts, part)
	}
	return parts
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// shares adds up the weights of a pool.
func shares(pool service.Pool) int {
	n := 0
	for _, ep := range pool {
		n += ep.Share()
	}
	return n
}

// chance matches with the chance of weight in total.
func chance(weight, total int) []xt.Match {
	if weight >= total {
		return nil
	}
	return []xt.Match{xt.Random{P: float64(weight) / float64(total)}}
}

// translate sends the packets that match to one endpoint.
func translate(p *service.Port, ep service.Endpoint, m ...xt.Match) xt.Rule {
	match := append(make([]xt.Match, 0, len(m)+1), xt.Proto{Protocol: protocol(p.ID.Protocol)})
	return xt.Rule{Match: append(match, m...), Target: xt.DNAT{To: ep.Addr}}
}

// digit returns digit number level, from 0, of a hash of a that has eight. Pods of a
// Service differ mostly in the last bytes of the address.
func digit(a netip.AddrPort, level int) int {
	h := uint32(2166136261) // FNV-1a
	raw := a.Addr().As16()
	for _, b := range raw {
		h = (h ^ uint32(b)) * 16777619
	}
	h = (h ^ uint32(a.Port()>>8)) * 16777619
	h = (h ^ uint32(a.Port()&0xff)) * 16777619
	h = (h ^ h>>16) * 0x85ebca6b // every bit of it counts in every digit
	h = (h ^ h>>13) * 0xc2b2ae35
	h ^= h >> 16
	return int(h>>(4*level)) & 15
}
