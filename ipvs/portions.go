package ipvs

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// portionKeys is how many addresses and ports are put in force with one transaction. A
// few hundred take a few milliseconds; a transaction for all there are would have the
// first wait for the last, and need memory for all of them at once.
const portionKeys = 512

// A portion is a part of what a step may have changed, of which everything about one
// Service is in the same one.
type portion struct {
	keys  []kernel.ServerKey
	addrs []netip.Addr // that its keys need first, or all if it is the last
	last  bool
}

// portions cuts t up: what others wait for comes first, what nobody wants any more
// last. What is small is one portion. Equal changes give equal portions.
func (st *State) portions(t *touched) iter.Seq[portion] {
	return func(yield func(portion) bool) {
		keys := slices.SortedFunc(maps.Keys(t.keys), kernel.ServerKey.Compare)
		last := portion{keys: keys, last: true}
		if len(keys) > portionKeys {
			places := st.places(keys)
			seen := make(map[netip.Addr]bool)
			for n := nextPortion(places); n < len(places); n = nextPortion(places) {
				if !yield(portionOf(keys[:n], seen, t)) {
					return
				}
				keys, places = keys[n:], places[n:]
			}
			last.keys = keys
		}
		last.addrs = slices.SortedFunc(maps.Keys(t.addrs), netip.Addr.Compare)
		yield(last)
	}
}

// portionOf returns the portion of keys, with those addresses of t that are not seen yet.
func portionOf(keys []kernel.ServerKey, seen map[netip.Addr]bool, t *touched) portion {
	p := portion{keys: keys}
	for _, k := range keys {
		a := k.Addr.Addr()
		if _, is := t.addrs[a]; is && !seen[a] {
			seen[a] = true
			p.addrs = append(p.addrs, a)
		}
	}
	return p
}

// A turn says when it is the turn of a key.
type turn uint8

// The turns.
const (
	turnAwaited turn = iota // somebody waits for it to begin at all
	turnWanted
	turnUnwanted
	turnAlias // is unwanted, and callers may still be sent to it
)

// A place is where a key comes in the order of portions.
type place struct {
	key     kernel.ServerKey
	turn    turn
	service service.Name // whose it is; nobody's if it is unwanted
}

// places puts keys in the order of portions, and returns where that is.
func (st *State) places(keys []kernel.ServerKey) []place {
	out := make([]place, len(keys))
	for i, k := range keys {
		out[i] = place{key: k, turn: turnUnwanted}
		switch u := st.units[k]; {
		case u != nil:
			out[i].turn, out[i].service = turnWanted, u.port.ID.Service
			if u.port.Urgent() {
				out[i].turn = turnAwaited
			}
		case aliasPrefix(service.FamilyOf(k.Addr.Addr())).Contains(k.Addr.Addr()):
			out[i].turn = turnAlias
		}
	}
	slices.SortStableFunc(out, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.turn, b.turn), a.service.Compare(b.service))
	})
	for i := range out {
		keys[i] = out[i].key
	}
	return out
}

// nextPortion returns how many of places are the next portion.
func nextPortion(places []place) int {
	if n := slices.IndexFunc(places, func(p place) bool { return p.turn != turnAwaited }); n > 0 {
		return n
	}
	n := min(portionKeys, len(places))
	for n < len(places) && places[n].turn <= turnWanted && places[n].service == places[n-1].service {
		n++
	}
	return n
}
