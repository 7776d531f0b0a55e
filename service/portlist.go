package service

import (
	"iter"
	"slices"
)

// A PortList is a sorted list of Ports that shares what it can with the list it was
// made from: one changed Service among N costs about the square root of N. The zero
// PortList is empty. It is never changed once made.
type PortList struct {
	runs []*portRun
	n    int
}

// A portRun is a part of the list, at least one Port long. The ports of a Service are
// all in one run.
type portRun struct{ ports []*Port }

const (
	runLen = 128        // of a run as it is made
	maxRun = 2 * runLen // longer ones are cut, between Services
	minRun = runLen / 4 // shorter ones join the one before
)

// NewPortList returns the list of some Ports, which must be sorted by ID, each ID
// once.
func NewPortList(ports ...*Port) PortList {
	return PortList{runs: appendRuns(nil, ports), n: len(ports)}
}

// Len returns the number of Ports.
func (l PortList) Len() int { return l.n }

// At returns Port number i, from 0. It panics if there is none.
func (l PortList) At(i int) *Port {
	for _, r := range l.runs {
		if i < len(r.ports) {
			return r.ports[i]
		}
		i -= len(r.ports)
	}
	panic("service: no such Port in the list")
}

// All yields the Ports by ID.
func (l PortList) All() iter.Seq[*Port] {
	return func(yield func(*Port) bool) {
		for _, r := range l.runs {
			for _, p := range r.ports {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// replace returns l with the ports of the named Services, which must be sorted,
// replaced by what of returns for each.
func (l PortList) replace(names []Name, of func(Name) []*Port) PortList {
	if len(names) == 0 {
		return l
	}
	out := PortList{runs: make([]*portRun, 0, len(l.runs)+1), n: l.n}
	next := 0 // the first run not in out yet
	for len(names) > 0 {
		at := max(next, l.owner(names[0]))
		out.runs = append(out.runs, l.runs[next:min(at, len(l.runs))]...)
		mine, rest := names, []*Port(nil)
		if at < len(l.runs) {
			rest = l.runs[at].ports
		}
		if at+1 < len(l.runs) {
			end := l.runs[at+1].ports[0].ID.Service
			n, _ := slices.BinarySearchFunc(names, end, Name.Compare)
			mine = names[:n]
		}
		ports := mergePorts(rest, mine, of)
		out.n += len(ports) - len(rest)
		out.runs = joinRuns(out.runs, ports)
		names, next = names[len(mine):], at+1
	}
	if next < len(l.runs) {
		out.runs = append(out.runs, l.runs[next:]...)
	}
	return out
}

// owner returns the number of the run in which the ports of a Service are, or would
// be.
func (l PortList) owner(n Name) int {
	i, found := slices.BinarySearchFunc(l.runs, n, func(r *portRun, n Name) int { return r.ports[0].ID.Service.Compare(n) })
	if found || i == 0 {
		return i
	}
	return i - 1
}

// mergePorts returns ports with those of the named Services replaced.
func mergePorts(ports []*Port, names []Name, of func(Name) []*Port) []*Port {
	out := make([]*Port, 0, len(ports)+len(names))
	for _, n := range names {
		i, _ := slices.BinarySearchFunc(ports, n, func(p *Port, n Name) int { return p.ID.Service.Compare(n) })
		out = append(out, ports[:i]...)
		for ports = ports[i:]; len(ports) > 0 && ports[0].ID.Service == n; ports = ports[1:] {
		}
		out = append(out, of(n)...)
	}
	return append(out, ports...)
}

// joinRuns appends ports to runs, to the last one if they are few.
func joinRuns(runs []*portRun, ports []*Port) []*portRun {
	if last := len(runs) - 1; last >= 0 && len(ports) < minRun && len(ports) > 0 {
		ports = slices.Concat(runs[last].ports, ports)
		runs = runs[:last]
	}
	return appendRuns(runs, ports)
}

// appendRuns appends ports to runs, in as many as it takes.
func appendRuns(runs []*portRun, ports []*Port) []*portRun {
	for len(ports) > maxRun {
		n := runLen
		for n < len(ports) && ports[n].ID.Service == ports[n-1].ID.Service {
			n++
		}
		runs = append(runs, &portRun{ports: slices.Clip(ports[:n])})
		ports = ports[n:]
	}
	if len(ports) > 0 {
		runs = append(runs, &portRun{ports: ports})
	}
	return runs
}

// changed yields what differs between prev and l, as (old, new) pairs. It looks into
// the runs that the two do not share.
func (l PortList) changed(prev PortList) iter.Seq2[*Port, *Port] {
	return func(yield func(*Port, *Port) bool) {
		olds, news := portCursor{runs: prev.runs}, portCursor{runs: l.runs}
		for {
			if olds.i == 0 && news.i == 0 {
				for len(olds.runs) > 0 && len(news.runs) > 0 && olds.runs[0] == news.runs[0] {
					olds.runs, news.runs = olds.runs[1:], news.runs[1:]
				}
			}
			o, n := olds.port(), news.port()
			switch {
			case o == nil && n == nil:
				return
			case o == n:
				olds.next()
				news.next()
				continue
			case o != nil && n != nil:
				switch c := o.ID.Compare(n.ID); {
				case c < 0:
					n = nil
				case c > 0:
					o = nil
				}
			}
			if o != nil {
				olds.next()
			}
			if n != nil {
				news.next()
			}
			if !yield(o, n) {
				return
			}
		}
	}
}

// A portCursor is a place in a list.
type portCursor struct {
	runs []*portRun
	i    int // in the first run
}

// port returns the Port at the cursor, nil at the end.
func (c *portCursor) port() *Port {
	if len(c.runs) == 0 {
		return nil
	}
	return c.runs[0].ports[c.i]
}

func (c *portCursor) next() {
	if c.i++; c.i == len(c.runs[0].ports) {
		c.runs, c.i = c.runs[1:], 0
	}
}
