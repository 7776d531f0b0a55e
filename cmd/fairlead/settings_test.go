package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"golang.org/x/tools/txtar"

	"github.com/fairlead-project/fairlead/cmd/fairlead/document"
)

// runFlags returns the flags of fairlead without a subcommand.
func runFlags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.SortFlags = false
	new(flags).addRun(fs)
	return fs
}

// TestSettings makes sure that every flag is in the table of settings, and every field of the documents.
func TestSettings(t *testing.T) {
	fs := runFlags()
	rows := make(map[string]int)
	proxy, own := make(map[string]bool), make(map[string]bool)
	for _, s := range settings() {
		rows[s.flag]++
		if fs.Lookup(s.flag) == nil {
			t.Errorf("the setting %s is no flag", s.flag)
		}
		proxy[s.proxy], own[s.own] = true, true
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Name != "version" && rows[f.Name] != 1 {
			t.Errorf("--%s has %d rows in the table of settings, want 1: add it there, and a field to v1alpha1", f.Name, rows[f.Name])
		}
	})
	for path := range flagless() {
		if proxy[path] {
			t.Errorf("%s has a flag and is listed as having none", path)
		}
		proxy[path] = true
	}
	for doc, known := range map[any]map[string]bool{document.NewProxy(): proxy, document.NewOwn(): own} {
		paths := document.Paths(doc)
		for _, p := range paths {
			if !known[p] {
				t.Errorf("the field %s of %T has no flag", p, doc)
			}
		}
		for p := range known {
			if p != "" && !slices.Contains(paths, p) {
				t.Errorf("%T has no field %s", doc, p)
			}
		}
	}
}

// TestSettingsOwn makes sure that everything of ours says how it is without a file.
func TestSettingsOwn(t *testing.T) {
	for _, s := range ownSettings() {
		if s.own == "" && s.flag != "fairlead-config" {
			t.Errorf("--%s cannot be given in a file", s.flag)
		}
		if s.proxy != "" {
			t.Errorf("--%s is kube-proxy's", s.flag)
		}
	}
}

// loadArgs loads the settings of a command line.
func loadArgs(t *testing.T, args ...string) (*loader, error) {
	t.Helper()
	return command{out: t.Output(), err: t.Output()}.again(args)
}

// A fixture is a command line with its files, and what has to come of it.
type fixture struct {
	args      []string
	want, log string
}

// readFixture puts the files of an archive into a folder. In its arguments, the folder of any file is that one.
func readFixture(t *testing.T, name string) fixture {
	t.Helper()
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var f fixture
	for _, file := range archive.Files {
		switch file.Name {
		case "args":
			f.args = strings.Fields(string(file.Data))
		case "want":
			f.want = string(file.Data)
		case "log":
			f.log = string(file.Data)
		default:
			if err := os.WriteFile(filepath.Join(dir, file.Name), file.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, a := range f.args {
		flag, value, _ := strings.Cut(a, "=")
		if flag == "--config" || flag == "--fairlead-config" {
			f.args[i] = flag + "=" + filepath.Join(dir, filepath.Base(value))
		}
	}
	return f
}

// changed lists the flags with another value than their default.
func changed(fs *pflag.FlagSet) string {
	var out strings.Builder
	fs.VisitAll(func(f *pflag.Flag) {
		value := f.Value.String()
		if value != f.DefValue && f.Name != "config" {
			if f.Name == "fairlead-config" {
				value = filepath.Base(value)
			}
			fmt.Fprintf(&out, "%s=%s\n", f.Name, value)
		}
	})
	return out.String()
}

// said lists remarks, with files by their last name.
func said(remarks []remark) string {
	var out strings.Builder
	for _, r := range remarks {
		fmt.Fprintf(&out, "%s %s", r.level, r.text)
		for i := 0; i < len(r.attrs); i += 2 {
			value := fmt.Sprint(r.attrs[i+1])
			if strings.HasPrefix(value, "/") {
				file, field, more := strings.Cut(value, ": ")
				value = filepath.Base(file)
				if more {
					value += ": " + field
				}
			}
			fmt.Fprintf(&out, " %s=%s", r.attrs[i], value)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// sorted sorts lines: both come in the order of flags, which is nobody's business here.
func sorted(text string) string {
	lines := slices.Sorted(strings.Lines(text))
	return strings.Join(lines, "")
}

// TestFixtures loads what installers write, and looks at every value that is not the default, and at every remark.
func TestFixtures(t *testing.T) {
	names, err := filepath.Glob("testdata/config/*.txtar")
	if err != nil || len(names) < 15 {
		t.Fatalf("%d fixtures: %v", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			f := readFixture(t, name)
			l, err := loadArgs(t, f.args...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(sorted(changed(l.fs)), sorted(f.want)); d != "" {
				t.Errorf("flags other than by default (-got +want):\n%s", d)
			}
			if d := cmp.Diff(sorted(said(l.remarks)), sorted(f.log)); d != "" {
				t.Errorf("remarks (-got +want):\n%s", d)
			}
			checkRoundTrip(t, l)
		})
	}
}

// checkRoundTrip writes what is in force to a file, and makes sure that it comes to the same.
func checkRoundTrip(t *testing.T, l *loader) {
	t.Helper()
	before, err := l.text()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "written")
	if err := os.WriteFile(file, before, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := loadArgs(t, "--config="+file)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v\n%s", err, before)
	}
	after, err := again.text()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(after), string(before)); d != "" {
		t.Errorf("what is in force, written and read (-got +want):\n%s", d)
	}
	got, err := again.flags.config()
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.flags.config()
	if err != nil {
		t.Fatal(err)
	}
	if want.MinSyncPeriod == 0 && want.Mode != modeIPVS {
		want.MinSyncPeriod = 1 // 0 would mean the default
	}
	if d := cmp.Diff(got, want, comparable()); d != "" {
		t.Errorf("what the written file means (-got +want):\n%s", d)
	}
}

// TestLoadErrors is about files that cannot be used: the message names file and field, and the exit status is 1.
func TestLoadErrors(t *testing.T) {
	const (
		proxy = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
		own   = "apiVersion: fairlead.io/v1alpha1\nkind: FairleadConfiguration\n"
	)
	for _, c := range []struct {
		name   string
		config string
		own    string
		want   []string
	}{
		{"value", proxy + "conntrack: {min: -1}\n", "", []string{"config.conf: conntrack.min: must not be negative, is -1"}},
		{"several", proxy + "mode: x\nipvs: {syncPeriod: -1s}\niptables: {syncPeriod: -1s}\noomScoreAdj: 3000\n", "", []string{
			`config.conf: mode: unknown proxy mode "x"`, "config.conf: iptables.syncPeriod: must be above 0", "config.conf: oomScoreAdj: 3000 is not between",
		}},
		{"nftables", proxy + "mode: nftables\n", "", []string{"config.conf: mode: nftables is a proxy mode of kube-proxy only", "FairleadConfiguration with modes"}},
		{"gate", proxy + "featureGates: {NoSuchGate: true}\n", "", []string{"config.conf: featureGates: unrecognized feature gate: NoSuchGate"}},
		{"locked gate", proxy + "featureGates: {NFTablesProxyMode: false}\n", "", []string{"featureGates: cannot set feature gate NFTablesProxyMode to false"}},
		{"interface", proxy + "detectLocalMode: BridgeInterface\n", "", []string{"--pod-bridge-interface: is required"}},
		{"type", proxy + "conntrack: {min: many}\n", "", []string{"config.conf: read KubeProxyConfiguration: ", "conntrack.min"}},
		{"kind", "apiVersion: v1\nkind: Pod\n", "", []string{`config.conf: apiVersion "v1", kind "Pod"`}},
		{"empty", "", "", []string{"config.conf: is empty"}},
		{"ours alone", own, "", []string{"config.conf: has no KubeProxyConfiguration"}},
		{"ours twice", proxy + "---\n" + own, own, []string{"own.yaml: a second FairleadConfiguration; one is in ", "config.conf"}},
		{"theirs in ours", proxy, proxy, []string{"own.yaml: a KubeProxyConfiguration is for --config"}},
		{"unknown field of ours", proxy, own + "ipvs: {drainTimeuot: 3s}\n", []string{`own.yaml: read FairleadConfiguration: unknown field "ipvs.drainTimeuot"`}},
		{"value of ours", proxy, own + "userspace: {port: 70000}\nmodes: [userspace]\n", []string{"own.yaml: userspace.port: 70000 is not between"}},
		{"mode of ours", proxy, own + "modes: [ipvs, x]\n", []string{`own.yaml: modes: unknown proxy mode "x"`}},
		{"logging", proxy + "logging: {format: xml}\n", "", []string{`config.conf: logging.format: unknown format "xml"`}},
		{"vmodule with json", proxy + "logging: {format: json, vmodule: [{filePattern: x, verbosity: 4}]}\n", "", []string{"config.conf: logging.vmodule: goes with"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			args := []string{"--config=" + filepath.Join(dir, "config.conf")}
			files := map[string]string{"config.conf": c.config}
			if c.own != "" {
				args, files["own.yaml"] = append(args, "--fairlead-config="+filepath.Join(dir, "own.yaml")), c.own
			}
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var errs bytes.Buffer
			code := command{out: t.Output(), err: &errs}.main(t.Context(), args)
			if code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
			for _, w := range c.want {
				if !strings.Contains(errs.String(), w) {
					t.Errorf("got %q, want %q in it", errs.String(), w)
				}
			}
			if strings.Count(errs.String(), "\n") != 1 {
				t.Errorf("want one line, got %q", errs.String())
			}
		})
	}
}
