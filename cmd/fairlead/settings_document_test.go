package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-project/fairlead/service/servicetest/golden"
)

// TestConfigurationDocument compares the tables in docs/configuration.md with the flags. With -update it writes them.
func TestConfigurationDocument(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "configuration.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := string(text)
	for name, rows := range map[string][]setting{
		"kube-proxy": append(proxySettings(), logSettings()...),
		"fairlead":   ownSettings(),
	} {
		before, rest, ok := strings.Cut(want, "<!-- "+name+": ")
		comment, rest, ok2 := strings.Cut(rest, "\n")
		_, after, ok3 := strings.Cut(rest, "<!-- end -->")
		if !ok || !ok2 || !ok3 {
			t.Fatalf("%s has no table %q", path, name)
		}
		want = before + "<!-- " + name + ": " + comment + "\n" + settingsTable(rows) + "<!-- end -->" + after
	}
	golden.File(t, path, want)
}

func settingsTable(rows []setting) string {
	fs := runFlags()
	var out strings.Builder
	out.WriteString("\n| flag | field | default | what it does |\n|---|---|---|---|\n")
	for _, s := range rows {
		f := fs.Lookup(s.flag)
		mark, field, value := "", "", ""
		if s.always {
			mark = " ✱"
		}
		if path := s.proxy + s.own; s.flag != "proxy-mode" && path != "" {
			field = "`" + path + "`"
		} else if path != "" {
			field = fmt.Sprintf("`%s`; `%s` of FairleadConfiguration", s.proxy, s.own)
		}
		if v := f.DefValue; v != "" && v != "[]" {
			value = "`" + v + "`"
		}
		does := strings.TrimSuffix(f.Usage, " (not in kube-proxy)")
		if s.noop != "" {
			does = "nothing: " + s.noop
		}
		fmt.Fprintf(&out, "| `--%s`%s | %s | %s | %s |\n", f.Name, mark, field, value, strings.ReplaceAll(does, "|", `\|`))
	}
	out.WriteByte('\n')
	return out.String()
}
