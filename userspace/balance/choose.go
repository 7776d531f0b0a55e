package balance

// counts reports whether the number of connections matters to al.
func (al algorithm) counts() bool {
	switch al.kind {
	case lc, wlc, sed, nq, ovf:
		return true
	default:
		return false
	}
}

// choose returns the member for c, or -1. Those that are left out get their
// chance when c has tried all others.
func (p *pool) choose(c *Conn) int {
	i := p.pick(c, func(i int) bool { return !p.shut(i) && !c.has(p.members[i].ep) })
	if i < 0 && c.n > 0 && c.n < len(p.members) {
		i = p.pick(c, func(i int) bool { return !c.has(p.members[i].ep) })
	}
	return i
}

// pick returns the one of the members that may whom the algorithm prefers, or -1.
func (p *pool) pick(c *Conn, may func(int) bool) int {
	switch p.algorithm.kind {
	case rr:
		return p.following(may)
	case hashClient, hashFrontend:
		slot := p.algorithm.slot(c)
		if i := p.winner(slot); may(i) {
			return i
		}
		return p.rendezvous(slot, may)
	case wrr:
		return p.weighted(may)
	default:
		i := p.first(may)
		if i >= 0 && p.full(i) {
			return -1
		}
		return i
	}
}

// following returns the next member in order that may, or -1.
func (p *pool) following(may func(int) bool) int {
	n := len(p.members)
	for d := range n {
		i := p.next + d
		if i >= n {
			i -= n
		}
		if may(i) {
			p.next, p.last = i+1, p.members[i].ep
			if p.next == n {
				p.next = 0
			}
			return i
		}
	}
	return -1
}

// weighted returns the member that may and is most behind in the cycle of wrr, or
// -1. In one cycle each member has as many turns as its weight. The k-th turn,
// from 0, is at (2k+1)/(2·weight) of the cycle, so turns are spread out evenly.
func (p *pool) weighted(may func(int) bool) int {
	front := p.root()
	if m := &p.members[front]; m.turns >= m.weight {
		for i := range p.members {
			m := &p.members[i]
			m.turns -= min(m.turns, m.weight)
		}
		p.turn = fraction{}
		p.grow()
		front = p.root()
	}
	i := p.first(may)
	if i < 0 {
		return -1
	}
	m := &p.members[i]
	if i == front {
		p.turn = fraction{2*m.turns + 1, 2 * m.weight}
		p.last = m.ep
	}
	m.turns++
	p.fix(i)
	return i
}

// seek gives every member the turns that it has had when p.turn of the cycle is
// done and p.last was the last of those that had theirs at this very moment.
func (p *pool) seek() {
	for i := range p.members {
		m := &p.members[i]
		m.turns = 0
		if p.turn.num == 0 {
			continue
		}
		whole := 2 * m.weight * p.turn.num
		x := whole / p.turn.den
		m.turns = (x + 1) / 2
		if x%2 == 1 && x*p.turn.den == whole && p.last != nil && m.ep.compare(p.last) > 0 {
			m.turns--
		}
	}
}

// first returns the member that may and comes before all others that may, or -1.
func (p *pool) first(may func(int) bool) int {
	if i := p.root(); may(i) {
		return i
	}
	best := -1
	for i := range p.members {
		if may(i) && (best < 0 || p.before(i, best)) {
			best = i
		}
	}
	return best
}

// before reports whether the algorithm prefers the member i to j. Fractions are
// compared by multiplying out: weights are 16 bits, the rest is far from 48.
func (p *pool) before(i, j int) bool {
	if a, b := p.shut(i), p.shut(j); a != b {
		return b
	}
	x, y := &p.members[i], &p.members[j]
	xn, yn := uint64(x.ep.active), uint64(y.ep.active)
	var l, r uint64 // i is before j if l < r
	switch p.algorithm.kind {
	case wrr:
		l, r = (2*x.turns+1)*y.weight, (2*y.turns+1)*x.weight
	case lc:
		l, r = xn, yn
	case wlc:
		l, r = xn*y.weight, yn*x.weight
	case nq:
		if xn == 0 || yn == 0 {
			l, r = min(xn, 1), min(yn, 1)
			break
		}
		fallthrough
	case sed:
		l, r = (xn+1)*y.weight, (yn+1)*x.weight
	case ovf:
		if a, b := p.full(i), p.full(j); a != b {
			return b
		}
		fallthrough
	case fo:
		l, r = y.weight, x.weight
	}
	if l != r {
		return l < r
	}
	if a, b := x.ep.picked, y.ep.picked; a != b && p.algorithm.takesTurns() {
		return a < b
	}
	return i < j
}

// takesTurns reports whether of endpoints that are as good as each other the one
// comes first that was not picked for longest. In IPVS connections that are over
// still count for a while, to the same effect: without either, connections that do
// not last would all go to one endpoint.
func (al algorithm) takesTurns() bool {
	switch al.kind {
	case lc, wlc, sed, nq:
		return true
	default:
		return false
	}
}

// full reports whether the member i has more connections than ovf allows.
func (p *pool) full(i int) bool {
	m := &p.members[i]
	return p.algorithm.kind == ovf && uint64(m.ep.active) > m.weight
}

// root returns the member that comes before all others.
func (p *pool) root() int {
	if len(p.members) == 1 {
		return 0
	}
	return int(p.tree[1])
}

// grow makes the tree, in which each node is the one of its two children that is
// before the other. The leaves, from len(members) on, are left out: the child n+i
// of n members is the member i.
func (p *pool) grow() {
	n := len(p.members)
	if p.tree == nil {
		p.tree = make([]int32, n)
	}
	for node := n - 1; node >= 1; node-- {
		p.tree[node] = p.better(2*node, 2*node+1)
	}
}

// fix sets the tree right after the member i has changed.
func (p *pool) fix(i int) {
	for node := (len(p.members) + i) / 2; node >= 1; node /= 2 {
		p.tree[node] = p.better(2*node, 2*node+1)
	}
}

func (p *pool) better(a, b int) int32 {
	i, j := p.leaf(a), p.leaf(b)
	if p.before(i, j) {
		return int32(i)
	}
	return int32(j)
}

func (p *pool) leaf(node int) int {
	if n := len(p.members); node >= n {
		return node - n
	}
	return int(p.tree[node])
}
