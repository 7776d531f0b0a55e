//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
)

// TestVersionsKubeadm compares what our tests say that kubeadm writes with what it does.
func TestVersionsKubeadm(t *testing.T) {
	for _, v := range requireReleases(t) {
		t.Run(v, func(t *testing.T) {
			kubeadm, err := controlplane.Release(t.Context(), v, "kubeadm")
			if err != nil {
				t.Fatal(err)
			}
			fixture := fmt.Sprintf("../cmd/fairlead/testdata/config/kubeadm-1.%d.txtar", minorOf(t, v))
			archive, err := txtar.ParseFile(fixture)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			for _, f := range archive.Files {
				if f.Name == "config.conf" {
					// What is printed is for no cluster in particular.
					got = strings.Replace(string(f.Data), "clusterCIDR: 10.244.0.0/16\n", "clusterCIDR: \"\"\n", 1)
				}
			}
			const kind = "KubeProxyConfiguration"
			var want string
			for doc := range strings.SplitSeq(output(t, kubeadm, "config", "print", "init-defaults", "--component-configs="+kind), "---\n") {
				if strings.Contains(doc, "\nkind: "+kind+"\n") {
					want = doc
				}
			}
			if d := cmp.Diff(got, want); d != "" || want == "" {
				t.Errorf("%s (-fixture +kubeadm %s):\n%s", fixture, v, d)
			}
		})
	}
}
