//go:build !race

package route

import "testing"

// TestLookupAllocates is not for the race detector, under which pools lose things on purpose.
func TestLookupAllocates(t *testing.T) {
	tb := crowd(1000).With(map[string]*Host[string]{
		"re.example.org": NewHost(Strict, []Path[string]{{Kind: Regex, Path: `/users/\d+/edit`, Value: "re"}}, nil),
	})
	for _, q := range [][2]string{
		{crowdName(7), "/api/v1/users"}, {crowdName(8), "/healthz"}, {"unknown.example.org", "/"}, {"re.example.org", "/users/12/edit"}, {"re.example.org", "/x"},
	} {
		if n := testing.AllocsPerRun(200, func() { tb.Lookup(q[0], q[1]) }); n != 0 {
			t.Errorf("Lookup(%q, %q): %v allocations, want 0", q[0], q[1], n)
		}
	}
}
