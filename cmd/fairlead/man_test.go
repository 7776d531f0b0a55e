package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/fairlead-project/fairlead/service/servicetest/golden"
)

// manuals is where the manual pages are.
var manuals = filepath.Join("..", "..", "deploy", "man")

// manual returns the page of c for section 8.
func manual(t *testing.T, c *cobra.Command) string {
	t.Helper()
	var out bytes.Buffer
	header := &doc.GenManHeader{Section: "8", Source: "fairlead", Manual: "fairlead", Date: new(time.Time)}
	if err := doc.GenMan(c, header, &out); err != nil {
		t.Fatal(err)
	}
	// A date would make every page change with the calendar.
	return strings.Replace(out.String(), `"Jan 0001"`, `""`, 1)
}

// TestManDocument compares the manual pages in deploy/man with the command line.
// With -update it writes them.
func TestManDocument(t *testing.T) {
	root := tree()
	root.InitDefaultHelpCmd()
	want := make(map[string]string)
	for _, c := range slices.Concat([]*cobra.Command{root}, root.Commands()) {
		if c.Name() != "help" {
			want[strings.ReplaceAll(c.CommandPath(), " ", "-")+".8"] = manual(t, c)
		}
	}
	if golden.Update() {
		if err := os.MkdirAll(manuals, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			write(t, filepath.Join(manuals, name), text)
		}
	}
	got := make(map[string]string)
	files, err := os.ReadDir(manuals)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(manuals, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[f.Name()] = string(text)
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("deploy/man is not what the command line is; make golden rewrites it (-got +want):\n%s", d)
	}
}

// TestSubcommands holds that everything that is told of can be done, with the usage
// that is told of.
func TestSubcommands(t *testing.T) {
	for _, s := range subcommands() {
		code, out, errs := invoke(s.name, "--help")
		if code != 0 || errs != "" || !strings.HasPrefix(out, s.usage) {
			t.Errorf("fairlead %s --help: exit status %d, errors %q, output:\n%s", s.name, code, errs, out)
		}
	}
	_, _, errs := invoke("nonsense")
	for _, s := range subcommands() {
		if !strings.Contains(errs, s.name) {
			t.Errorf("what is said about an unknown subcommand leaves out %s: %s", s.name, errs)
		}
	}
}
