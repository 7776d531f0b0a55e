package balance

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

// TestState has another Balancer go on where one was: the same clients at the same
// endpoints, the same endpoints left out, for as long as they would have been.
func TestState(t *testing.T) {
	pool := poolOf(same(4)...)
	port := portOf("rr", "", time.Hour, pool)
	one := newBed(t, Config{Outlier: Outlier{Failures: 2}}, port)
	homes := make(map[int]string)
	for client := range 8 {
		c := one.conn(client)
		at, _ := one.Pick(c, one.now)
		one.Connected(c, one.now)
		homes[client] = at.String()
		one.now = one.now.Add(time.Minute)
	}
	c := one.conn(100)
	bad, _ := one.Pick(c, one.now)
	one.Failed(c, one.now)
	for i := range 100 { // until it was its turn again
		c = one.conn(101 + i)
		if at, ok := one.Pick(c, one.now); ok && at == bad {
			one.Failed(c, one.now)
		}
		if one.Stats().LeftOut == 1 {
			break
		}
	}

	text, err := json.Marshal(one.State(one.now))
	if err != nil {
		t.Fatal(err)
	}
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	two := newBed(t, Config{Outlier: Outlier{Failures: 2}}, port)
	two.now = one.now.Add(1000 * time.Hour) // another clock
	two.Learn(s, two.now)
	learnt, err := json.Marshal(two.State(two.now))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(learnt), string(text)); d != "" {
		t.Errorf("what was learnt (-got +want):\n%s", d)
	}
	got, want := two.Stats(), one.Stats()
	if got.LeftOut != 1 || got.Clients != want.Clients {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for client, home := range homes {
		at, ok := two.Pick(two.conn(client), two.now)
		if home == bad.String() {
			if at == bad {
				t.Errorf("client %d is sent to an endpoint that is left out", client)
			}
		} else if !ok || at.String() != home {
			t.Errorf("client %d is sent to %v, want %s", client, at, home)
		}
	}
	two.now = two.now.Add(11 * time.Second)
	if at, ok := two.Pick(two.conn(200), two.now); !ok || at != bad {
		t.Errorf("after its time is over %v is tried, want %v", at, bad)
	}
}

// TestJoin counts connections where they are, also where nobody is sent any more.
func TestJoin(t *testing.T) {
	b := newBed(t, Config{}, portOf("lc", "", 0, poolOf(same(2)...)))
	one, two := b.conn(1), b.conn(2)
	b.Join(one, addr(1))
	b.Join(two, addr(9))
	if n := b.Stats().Active; n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	if at, _ := b.Pick(b.conn(3), b.now); at != addr(2) {
		t.Errorf("sent to %v, which has more than another", at)
	}
	b.Finished(one)
	b.Finished(two)
	b.Finished(two)
	if s := b.Stats(); s.Active != 1 || len(b.endpoints) != 2 {
		t.Errorf("got %+v, %d endpoints known", s, len(b.endpoints))
	}
	var none service.Pool
	late := &Conn{Client: caller(4), Pool: none}
	b.Join(late, addr(1))
	b.Connected(late, b.now)
	b.Finished(late)
	if n := b.Stats().Active; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}
