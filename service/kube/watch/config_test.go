package watch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: c
clusters: [{name: k, cluster: {server: "https://192.0.2.1:6443", certificate-authority: ca.crt}}]
contexts: [{name: c, context: {cluster: k, user: u}}]
users: [{name: u, user: {token: secret}}]
`

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("ca.crt", "")
	good := write("good", kubeconfig)
	for _, tc := range []struct {
		name, kubeconfig, master string
		host                     string
		errs                     []string
	}{
		{name: "file", kubeconfig: good, host: "https://192.0.2.1:6443"},
		{name: "file and master", kubeconfig: good, master: "https://192.0.2.2", host: "https://192.0.2.2"},
		{name: "master", master: "http://192.0.2.3:8080", host: "http://192.0.2.3:8080"},
		{name: "no such file", kubeconfig: filepath.Join(dir, "missing"), errs: []string{"missing", "no such file"}},
		{name: "not a kubeconfig", kubeconfig: write("bad", "a: [b"), errs: []string{filepath.Join(dir, "bad")}},
		{name: "empty", kubeconfig: write("empty", ""), errs: []string{filepath.Join(dir, "empty"), "no configuration"}},
		{name: "other context", kubeconfig: write("context", strings.Replace(kubeconfig, "current-context: c", "current-context: d", 1)),
			errs: []string{filepath.Join(dir, "context"), "context: d"}},
		{name: "nothing, and no cluster around", errs: []string{"in-cluster"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			t.Setenv("KUBECONFIG", good) // must not be looked at
			c, err := Config(tc.kubeconfig, tc.master, 7, 9)
			if len(tc.errs) > 0 {
				for _, want := range tc.errs {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error %v, want one with %q", err, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Host != tc.host || c.QPS != 7 || c.Burst != 9 || !strings.HasPrefix(c.UserAgent, "fairlead/") ||
				!strings.HasPrefix(c.AcceptContentTypes, c.ContentType+",") {
				t.Errorf("config %v, want host %s and the limits given", c, tc.host)
			}
			if tc.kubeconfig != "" && c.CAFile != filepath.Join(dir, "ca.crt") {
				t.Errorf("CA file %q, want it beside the kubeconfig", c.CAFile)
			}
		})
	}
}
