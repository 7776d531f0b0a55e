//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/e2e/controlplane"
)

// Flags and configuration files, compared with the real kube-proxy. Neither program is run for longer than it takes to
// read them.

// bothPrograms returns kube-proxy and fairlead.
func bothPrograms(t *testing.T) (theirs, ours string) {
	t.Helper()
	ours = requireWorld(t)
	theirs, err := controlplane.KubeProxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return theirs, ours
}

// output runs a program that has to succeed, and returns what it says.
func output(t *testing.T, path string, args ...string) string {
	t.Helper()
	var both bytes.Buffer
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdout, cmd.Stderr = &both, &both
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", filepath.Base(path), args, err, both.String())
	}
	return both.String()
}

// TestConfigFlags gives fairlead every flag that kube-proxy's help names.
func TestConfigFlags(t *testing.T) {
	t.Parallel()
	theirs, ours := bothPrograms(t)
	help := output(t, theirs, "--help")
	values := map[string]string{
		"": "true", "string": "x", "strings": "x", "duration": "1s", "int32": "1", "float32": "1", "ip": "10.0.0.1", "ipport": "10.0.0.1:1",
		"mapStringBool": "AllAlpha=false", "LocalMode": "NodeCIDR", "ProxyMode": "ipvs", "Level": "1", "quantity": "1Ki",
		"pattern=N,...": "x=1", "version[=true]": "raw",
	}
	var args []string
	for _, m := range regexp.MustCompile(`(?m)^ {2,6}(?:-[a-z], )?--([a-z0-9-]+)(?: (\S+))?(?: {2,}|$)`).FindAllStringSubmatch(help, -1) {
		value, ok := values[m[2]]
		if !ok {
			t.Errorf("--%s is a %q: do not know how to give one", m[1], m[2])
		}
		if m[1] != "help" {
			args = append(args, "--"+m[1]+"="+value)
		}
	}
	if len(args) < 55 {
		t.Errorf("found %d flags only: %q", len(args), args)
	}
	if got := output(t, ours, args...); !strings.Contains(got, "kubernetes=") {
		t.Errorf("--version=raw says %q", got)
	}
	if got := output(t, ours, "--kube_api_qps=3", "--version"); !strings.HasPrefix(got, "fairlead ") {
		t.Errorf("--version says %q", got)
	}
}

// TestConfigGates compares the feature gates that kube-proxy's help names with those that fairlead knows: each with
// its default and stage.
func TestConfigGates(t *testing.T) {
	t.Parallel()
	theirs, _ := bothPrograms(t)
	known, err := os.ReadFile("../cmd/fairlead/gates/known.txt")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for line := range strings.Lines(string(known)) {
		words := strings.Fields(line)
		if stage := words[2]; stage == "ALPHA" || stage == "BETA" { // help leaves the others out
			got = append(got, strings.Join(words[:3], " "))
		}
	}
	gate := regexp.MustCompile(`([A-Za-z0-9]+)=true\|false \((ALPHA|BETA) - default=(true|false)\)`)
	for _, m := range gate.FindAllStringSubmatch(output(t, theirs, "--help"), -1) {
		want = append(want, m[1]+" "+m[3]+" "+m[2])
	}
	if d := cmp.Diff(got, want); d != "" || len(want) < 100 {
		t.Errorf("feature gates (-known.txt +kube-proxy, which has %d); go generate ./cmd/fairlead/gates:\n%s", len(want), d)
	}
}

// TestConfigEffective has both programs write down what they make of the same files and flags, and compares each field.
func TestConfigEffective(t *testing.T) {
	t.Parallel()
	theirs, ours := bothPrograms(t)
	names, err := filepath.Glob("../cmd/fairlead/testdata/config/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	compared := 0
	for _, name := range names {
		args := fixtureArgs(t, name)
		if args == nil {
			continue // with something of fairlead's own
		}
		compared++
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			sameConfig(t, effective(t, ours, args), effective(t, theirs, args))
		})
	}
	if compared < 12 {
		t.Errorf("only %d fixtures are for both programs", compared)
	}
}

// TestConfigBack has kube-proxy read what fairlead writes, with fairlead's own document behind it.
func TestConfigBack(t *testing.T) {
	t.Parallel()
	theirs, ours := bothPrograms(t)
	args := fixtureArgs(t, "../cmd/fairlead/testdata/config/kubeadm-ipvs.txtar")
	file := filepath.Join(t.TempDir(), "written")
	output(t, ours, append(args, "--ipvs-drain-timeout=3s", "--write-config-to="+file)...)
	sameConfig(t, effective(t, ours, args), effective(t, theirs, []string{"--config=" + file}))
}

// sameConfig compares two KubeProxyConfigurations.
func sameConfig(t *testing.T, got, want map[string]any) {
	t.Helper()
	mode, _ := want["mode"].(string)
	for _, section := range []string{"iptables", "ipvs", "nftables"} {
		if section != mode { // kube-proxy forgets the periods of other modes
			for _, m := range []map[string]any{got, want} {
				delete(m[section].(map[string]any), "syncPeriod")
				delete(m[section].(map[string]any), "minSyncPeriod")
			}
		}
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("what is in force (-fairlead +kube-proxy):\n%s", d)
	}
}

// fixtureArgs puts the files of a fixture into a folder and returns its command line, or nil if kube-proxy could not
// understand it.
func fixtureArgs(t *testing.T, name string) []string {
	t.Helper()
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var args []string
	for _, f := range archive.Files {
		if strings.Contains(string(f.Data), "fairlead") || strings.Contains(string(f.Data), "--proxy-mode=nftables,") {
			return nil
		}
		if f.Name == "args" {
			args = strings.Fields(string(f.Data))
		} else if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, a := range args {
		// kube-proxy gives an address its port when it runs, and not when it writes.
		switch flag, value, _ := strings.Cut(a, "="); {
		case flag == "--config":
			args[i] = "--config=" + filepath.Join(dir, filepath.Base(value))
		case flag == "--healthz-bind-address" && !strings.Contains(value, ":"):
			args[i] += ":10256"
		case flag == "--metrics-bind-address" && !strings.Contains(value, ":"):
			args[i] += ":10249"
		}
	}
	return args
}

// effective returns the KubeProxyConfiguration that a program writes for a command line.
func effective(t *testing.T, program string, args []string) map[string]any {
	t.Helper()
	file := filepath.Join(t.TempDir(), "written")
	output(t, program, append(args, "--write-config-to="+file)...)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n---\n")
	var out map[string]any
	if err := yaml.Unmarshal([]byte(first), &out); err != nil {
		t.Fatal(fmt.Errorf("%s wrote: %w", filepath.Base(program), err))
	}
	trim(out)
	return out
}

// trim removes what is null or empty: which of them it is means nothing.
func trim(m map[string]any) {
	for key, value := range m {
		switch v := value.(type) {
		case nil:
			delete(m, key)
		case []any:
			if len(v) == 0 {
				delete(m, key)
			}
		case map[string]any:
			trim(v)
		}
	}
}
