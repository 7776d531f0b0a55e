package balance

import (
	"net/netip"
	"slices"
	"time"
)

// A set is the endpoints of a Pool at one moment. It is immutable.
type set struct {
	all     []member // sorted by address
	usable  []member // those of all that are not out; all if there are none
	leaving []member // for the sessions they have: chosen before, and serving still
	others  []member // serving, and never chosen here
}

// A member is an endpoint in a set.
type member struct {
	ep     *Endpoint
	weight uint64
	out    bool // ejected or down, and not all are
	left   bool // of leaving
}

// publish makes the set of what is known. Callers hold p.mu.
func (p *Pool) publish() {
	s := &set{all: make([]member, 0, len(p.eps))}
	for _, e := range p.eps {
		ep := p.known[e.Addr]
		s.all = append(s.all, member{ep: ep, weight: uint64(e.Share()), out: ep.shut.Load() || ep.checkedDown.Load()})
	}
	slices.SortFunc(s.all, member.compare)
	s.all = slices.CompactFunc(s.all, func(a, b member) bool { return a.ep == b.ep })
	outs := 0
	for i := range s.all {
		if s.all[i].out {
			outs++
		}
	}
	if outs == len(s.all) {
		for i := range s.all {
			s.all[i].out = false
		}
	}
	s.usable = s.all
	if outs > 0 && outs < len(s.all) {
		s.usable = slices.DeleteFunc(slices.Clone(s.all), func(m member) bool { return m.out })
	}
	p.addServing(s)
	p.current.Store(s)
	p.setWake()
	p.setSlow()
}

// setSlow notes whether anybody is in slow start. Callers hold p.mu.
func (p *Pool) setSlow() {
	for i := range p.eps {
		if p.known[p.eps[i].Addr].ramp.Load() != 0 {
			p.slow.Store(int64(p.health.SlowStart))
			return
		}
	}
	p.slow.Store(0)
}

func (m member) compare(o member) int { return m.ep.addr.Compare(o.ep.addr) }

// addServing adds to s those that serve but are not to get new requests.
func (p *Pool) addServing(s *set) {
	for _, e := range p.serving {
		find := func(m member, addr netip.AddrPort) int { return m.ep.addr.Compare(addr) }
		if _, ok := slices.BinarySearchFunc(s.all, e.Addr, find); ok {
			continue
		}
		ep := p.known[e.Addr]
		m := member{ep: ep, weight: uint64(e.Share()), left: ep.chosen, out: ep.shut.Load()}
		if m.left {
			s.leaving = append(s.leaving, m)
		} else {
			s.others = append(s.others, m)
		}
	}
	slices.SortFunc(s.leaving, member.compare)
	slices.SortFunc(s.others, member.compare)
}

// setWake notes when the next ejection ends. Callers hold p.mu.
func (p *Pool) setWake() {
	wake := int64(never)
	for _, ep := range p.known {
		if ep.shut.Load() && !ep.checkedDown.Load() {
			wake = min(wake, ep.dueAt())
		}
	}
	p.wake.Store(wake)
}

// failed notes a failure of ep, which may eject it.
func (p *Pool) failed(ep *Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rule, now := &p.health.Passive, p.now()
	switch {
	case rule.Off || p.known[ep.addr] != ep:
		return
	case ep.shut.Load():
		// Without a trial it is a request from before the ejection.
		if ep.trial.Load() != 0 {
			p.eject(ep, now)
		}
		return
	case rule.FailTimeout > 0 && now-ep.firstFail > int64(rule.FailTimeout):
		ep.fails.Store(0)
	}
	if ep.fails.Add(1) == 1 {
		ep.firstFail = now
	}
	if int(ep.fails.Load()) >= rule.MaxFails && p.mayEject() {
		p.eject(ep, now)
	}
}

// mayEject reports whether one more endpoint may be ejected.
func (p *Pool) mayEject() bool {
	s, outs := p.current.Load(), 0
	for i := range s.all {
		if s.all[i].ep.shut.Load() {
			outs++
		}
	}
	return len(s.all) > 1 && (outs+1)*100 <= p.health.Passive.Percent*len(s.all)
}

// eject leaves ep out for a while, once more if it is out already.
func (p *Pool) eject(ep *Endpoint, now int64) {
	rule := &p.health.Passive
	again := ep.shut.Load() || ep.rounds > 0 && now-ep.returned < int64(p.length(ep.rounds))
	if !again {
		ep.rounds = 0
	}
	ep.rounds++
	if rule.FailTimeout > 0 {
		ep.rounds = 1
	}
	ep.until.Store(now + int64(p.length(ep.rounds)))
	ep.trial.Store(0)
	ep.fails.Store(0)
	ep.shut.Store(true)
	p.ejected.Add(1)
	p.publish()
}

// length returns how long the nth ejection in a row lasts.
func (p *Pool) length(n int) time.Duration {
	rule := &p.health.Passive
	if rule.FailTimeout > 0 {
		return rule.FailTimeout
	}
	return min(rule.Base*time.Duration(min(n, 1<<16)), rule.Max)
}

// decide ends the ejection of ep if an answer says so: that of the request let
// through, or of any if all endpoints are out and used all the same.
func (p *Pool) decide(ep *Endpoint, o Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, now := p.current.Load(), p.now()
	desperate := len(s.usable) == len(s.all)
	switch {
	case !ep.shut.Load() || ep.trial.Load() == 0 && !desperate:
		return
	case o == Aborted: // nothing learned: let another one through
		ep.trial.Store(0)
		p.setWake()
		return
	}
	ep.shut.Store(false)
	ep.trial.Store(0)
	ep.fails.Store(0)
	ep.returned = now
	p.rampUp(ep, now)
	p.publish()
}

// trialTime is after how long a request let through is given up on.
const trialTime = int64(30 * time.Second)

// due reports whether the ejection of ep is over but for a request that decides it, and if so
// makes the caller's that request.
func (ep *Endpoint) due(now int64) bool {
	t := ep.trial.Load()
	if !ep.shut.Load() || now < ep.until.Load() || t != 0 && now-t < trialTime {
		return false
	}
	return ep.trial.CompareAndSwap(t, now)
}

// dueAt returns when due may be true.
func (ep *Endpoint) dueAt() int64 {
	if t := ep.trial.Load(); t != 0 {
		return t + trialTime
	}
	return ep.until.Load()
}

// try returns an endpoint that this request is to decide about, or nil.
func (p *Pool) try(s *set, now int64) *Endpoint {
	wake := p.wake.Load()
	if now < wake {
		return nil
	}
	var found *Endpoint
	next := int64(never)
	for i := range s.all {
		m := &s.all[i]
		switch {
		case !m.out || !m.ep.shut.Load() || m.ep.checkedDown.Load():
			continue
		case found == nil && m.ep.due(now):
			found = m.ep
		}
		next = min(next, m.ep.dueAt())
	}
	// What is new since was not looked at; then the next request looks again.
	p.wake.CompareAndSwap(wake, next)
	return found
}

// watchAll has those checked that new requests are sent to. Callers hold p.mu.
func (p *Pool) watchAll() {
	if p.opts.Checker == nil || p.health.Check == nil {
		return
	}
	to := make(map[netip.AddrPort]bool, len(p.eps))
	for _, e := range p.eps {
		to[e.Addr] = true
		if ep := p.known[e.Addr]; ep.watch == nil {
			ep.watch = p.opts.Checker.add(ep, *p.health.Check)
		}
	}
	for addr, ep := range p.known {
		if !to[addr] {
			p.unwatch(ep)
		}
	}
}

// unwatch ends the checks of ep. Callers hold p.mu.
func (p *Pool) unwatch(ep *Endpoint) {
	if ep.watch != nil {
		ep.watch.remove(ep)
		ep.watch = nil
	}
	ep.checkedDown.Store(false)
	ep.verdict = nil
}

// checked notes what active checks say of ep from now on. They are w, or ep is not theirs any more.
func (p *Pool) checked(ep *Endpoint, w *watch, verdict error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ep.watch != w || ep.checkedDown.Load() == (verdict != nil) {
		return
	}
	ep.checkedDown.Store(verdict != nil)
	ep.verdict = verdict
	if verdict == nil {
		p.rampUp(ep, p.now())
	}
	p.publish()
}

// An EndpointStatus is what a Pool knows of one endpoint, for people.
type EndpointStatus struct {
	Addr      netip.AddrPort
	Weight    int
	Leaving   bool // only for the sessions it has
	InFlight  int
	Requests  uint64        // since it came
	Failures  uint64        // of these
	Latency   time.Duration // recent peak; 0: nobody asked for it, or not known
	Ejected   time.Duration // for how long still; 0: not ejected
	Trial     bool          // the request that decides an ejection is under way
	CheckErr  error         // why active checks have taken it out; nil: they have not
	SlowStart float64       // the part of its share that it gets, up to 1
	Used      bool          // it may get new requests
}

// Snapshot returns the endpoints in the order of their addresses, those that
// are leaving last.
func (p *Pool) Snapshot() []EndpointStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, now := p.current.Load(), p.now()
	out := make([]EndpointStatus, 0, len(s.all)+len(s.leaving))
	for _, list := range [][]member{s.all, s.leaving} {
		for i := range list {
			m := &list[i]
			st := EndpointStatus{
				Addr: m.ep.addr, Weight: int(m.weight), Leaving: m.left,
				InFlight: m.ep.InFlight(), Requests: m.ep.requests.Load(), Failures: m.ep.failures.Load(),
				Latency:  time.Duration(m.ep.latency.now(now)),
				Trial:    m.ep.trial.Load() != 0,
				CheckErr: m.ep.verdict, SlowStart: m.ep.share(now, p.health.SlowStart), Used: !m.out && !m.left,
			}
			if m.ep.shut.Load() {
				st.Ejected = time.Duration(max(1, m.ep.until.Load()-now))
			}
			out = append(out, st)
		}
	}
	return out
}
