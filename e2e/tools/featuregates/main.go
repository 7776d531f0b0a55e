// Command featuregates prints the feature gates that kube-proxy knows, one on a line: name, default, stage, and
// whether the default is locked. They are those of every component of Kubernetes, since the gates of all are in one
// registry.
package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	_ "k8s.io/kubernetes/cmd/kube-proxy/app" // registers them
)

func main() {
	gates := utilfeature.DefaultMutableFeatureGate.GetAll()
	for _, name := range slices.Sorted(maps.Keys(gates)) {
		g := gates[name]
		locked := ""
		if g.LockToDefault {
			locked = " locked"
		}
		fmt.Printf("%s %t %s%s\n", name, g.Default, cmp.Or(string(g.PreRelease), "GA"), locked)
	}
}
