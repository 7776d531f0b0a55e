package manifests

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service/kube"
)

// TestCanaryExample reads the example of weights and algorithms that is shown to
// users.
func TestCanaryExample(t *testing.T) {
	objects, errs := Load(filepath.Join("..", "..", "..", "docs", "examples", "ipvs"))
	for _, err := range errs {
		t.Error(err)
	}
	var c kube.Converter
	got := make(map[string]any)
	for _, o := range objects {
		e, problems := c.Convert(o.Value)
		for _, p := range problems {
			t.Errorf("%s:%d: %s", o.File, o.Line, p)
		}
		if e.Service != nil {
			got[o.ID.Name.Name] = e.Service.Scheduling.Algorithm + " " + e.Service.Scheduling.Flags
		} else if e.Slice != nil {
			got[o.ID.Name.Name] = e.Slice.Weight
		}
	}
	want := map[string]any{
		"search": "wlc ", "search-stable": uint16(9), "search-next": uint16(2),
		"cache": "mh mh-fallback", "cache-ipv4": uint16(0),
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("schedulings and weights (-got +want):\n%s", d)
	}
}
