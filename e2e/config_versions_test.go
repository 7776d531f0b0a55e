//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
)

// TestVersionsConfig has kube-proxy of older releases read what our tests say that kubeadm of
// that release writes, and write it down again. kubeadm prints the same type with the same
// codec: every key has to be there in both, and none may be unknown.
func TestVersionsConfig(t *testing.T) {
	for _, v := range requireReleases(t) {
		t.Run(v, func(t *testing.T) {
			program, err := controlplane.Release(t.Context(), v, "kube-proxy")
			if err != nil {
				t.Fatal(err)
			}
			fixture := fmt.Sprintf("../cmd/fairlead/testdata/config/kubeadm-1.%d.txtar", minorOf(t, v))
			archive, err := txtar.ParseFile(fixture)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "config.conf" })
			if i < 0 {
				t.Fatalf("%s has no config.conf", fixture)
			}
			dir := t.TempDir()
			read, written := filepath.Join(dir, "config.conf"), filepath.Join(dir, "written")
			if err := os.WriteFile(read, archive.Files[i].Data, 0o600); err != nil {
				t.Fatal(err)
			}
			if said := output(t, program, "--config="+read, "--write-config-to="+written); strings.Contains(said, "strict decoding") {
				t.Errorf("kube-proxy %s complains of %s: %s", v, fixture, said)
			}
			want := slices.DeleteFunc(keysOf(t, written), func(key string) bool {
				return key == ".logging.format" // not there when it is empty
			})
			if d := cmp.Diff(keysOf(t, read), want); d != "" || len(want) < 40 {
				t.Errorf("keys of %s (-fixture +kube-proxy %s, which has %d):\n%s", fixture, v, len(want), d)
			}
		})
	}
}

// keysOf returns the keys in a file of YAML, with those they are below, sorted.
func keysOf(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var top map[string]any
	if err := yaml.Unmarshal(text, &top); err != nil {
		t.Fatal(err)
	}
	var out []string
	var walk func(above string, m map[string]any)
	walk = func(above string, m map[string]any) {
		for key, value := range m {
			out = append(out, above+"."+key)
			if below, ok := value.(map[string]any); ok {
				walk(above+"."+key, below)
			}
		}
	}
	walk("", top)
	slices.Sort(out)
	return out
}
