//go:build linux

package controlplane

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForRelease(t *testing.T) {
	const theirs = `{
		"Module": {"Path": "k8s.io/kubernetes"},
		"Go": "1.20",
		"Require": [
			{"Path": "github.com/fsnotify/fsnotify", "Version": "v1.6.0"},
			{"Path": "example.com/new", "Version": "v0.0.0"},
			{"Path": "k8s.io/api", "Version": "v0.0.0"},
			{"Path": "k8s.io/klog/v2", "Version": "v2.100.1"}
		],
		"Replace": [
			{"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}},
			{"Old": {"Path": "example.com/new", "Version": "v0.0.0"}, "New": {"Path": "example.com/newer", "Version": "v1.0.0"}}
		]
	}`
	const want = `module releases

go 1.20

require k8s.io/kubernetes v1.28.15

replace k8s.io/api => k8s.io/api v0.28.15
replace example.com/new v0.0.0 => example.com/newer v1.0.0
`
	var m goMod
	if err := json.Unmarshal([]byte(theirs), &m); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m.forRelease("v1.28.15"), want); d != "" {
		t.Errorf("go.mod (-got +want):\n%s", d)
	}
}
