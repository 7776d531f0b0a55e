package document

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"github.com/fairlead-project/fairlead/cmd/fairlead/v1alpha1"
)

const (
	proxyHead = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
	ownHead   = "apiVersion: fairlead.io/v1alpha1\nkind: FairleadConfiguration\n"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		proxyMode  string // "-" for no such document
		variant    string // "-" for no such document
		warnings   []string
	}{
		{"one document", proxyHead + "mode: ipvs\n", "ipvs", "-", nil},
		{"JSON", `{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "ipvs"}`, "ipvs", "-", nil},
		{"both", proxyHead + "mode: ipvs\n---\n" + ownHead + "iptables: {variant: nft}\n", "ipvs", "nft", nil},
		{"the other way round", "---\n# ours\n---\n" + ownHead + "iptables: {variant: nft}\n---\n" + proxyHead, "", "nft", nil},
		{"ours alone", ownHead, "-", "", nil},
		{"unknown fields", proxyHead + "mode: ipvs\nresourceContainer: /x\nipvs: {udpTimeuot: 1s}\n", "ipvs", "-", []string{
			`unknown field "ipvs.udpTimeuot"`, `unknown field "resourceContainer"`,
		}},
		{"fields twice", proxyHead + "mode: ipvs\nmode: iptables\nportRange: a\nportRange: b\n", "iptables", "-", []string{
			`line 4: key "mode" already set in map`, `line 6: key "portRange" already set in map`,
		}},
		{"unknown field in the first of two", proxyHead + "x: 1\n---\n" + ownHead, "", "", []string{`unknown field "x"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			mode, variant := "-", "-"
			if got.Proxy != nil {
				mode = string(got.Proxy.Mode)
			}
			if got.Own != nil {
				variant = ""
				if v := got.Own.IPTables.Variant; v != nil {
					variant = *v
				}
			}
			if mode != c.proxyMode || variant != c.variant {
				t.Errorf("got mode %q and variant %q, want %q and %q", mode, variant, c.proxyMode, c.variant)
			}
			if len(got.Warnings) != len(c.warnings) {
				t.Fatalf("warnings %q, want %q", got.Warnings, c.warnings)
			}
			for i, w := range c.warnings {
				if !strings.Contains(got.Warnings[i], w) {
					t.Errorf("warning %q, want %q in it", got.Warnings[i], w)
				}
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "is empty"},
		{"comments", "# nothing\n---\n", "is empty"},
		{"no kind", "mode: ipvs\n", `apiVersion "", kind ""`},
		{"another kind", "apiVersion: v1\nkind: ConfigMap\n", `apiVersion "v1", kind "ConfigMap"`},
		{"another version", "apiVersion: kubeproxy.config.k8s.io/v1beta1\nkind: KubeProxyConfiguration\n", "v1beta1"},
		{"an old group", "apiVersion: componentconfig/v1alpha1\nkind: KubeProxyConfiguration\n", "componentconfig/v1alpha1"},
		{"a number as text", proxyHead + "conntrack: {min: many}\n", "conntrack.min"},
		{"a bad duration", proxyHead + "iptables: {syncPeriod: 30}\n", "read KubeProxyConfiguration"},
		{"an unquoted IPv6 address", proxyHead + "bindAddress: ::\n", "read YAML"},
		{"two of a kind", proxyHead + "---\n" + proxyHead, "document 2: a second KubeProxyConfiguration"},
		{"two of ours", ownHead + "---\n" + ownHead, "document 2: a second FairleadConfiguration"},
		{"unknown field of ours", ownHead + "ipvs: {drainTimeuot: 1s}\n", `unknown field "ipvs.drainTimeuot"`},
		{"a field of ours twice", ownHead + "manifests: a\nmanifests: b\n", `"manifests" already set`},
		{"wrong type in ours", ownHead + "takeover: 3\n", "takeover"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse([]byte(c.text))
			if err == nil {
				t.Fatalf("got %+v, want an error with %q", got, c.want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
		})
	}
}

// TestField sets every kind of field from text, and gets it back.
func TestField(t *testing.T) {
	var proxy kubeproxy.KubeProxyConfiguration
	var own v1alpha1.FairleadConfiguration
	for _, c := range []struct {
		doc        any
		path, text string
	}{
		{&proxy, "mode", "ipvs"},
		{&proxy, "bindAddressHardFail", "true"},
		{&proxy, "iptables.localhostNodePorts", "false"},
		{&proxy, "iptables.syncPeriod", "1m0s"},
		{&proxy, "conntrack.maxPerCore", "0"},
		{&proxy, "conntrack.tcpEstablishedTimeout", "0s"},
		{&proxy, "clientConnection.qps", "7.5"},
		{&proxy, "clientConnection.burst", "-3"},
		{&proxy, "nodePortAddresses", "10.0.0.0/8,fd00::/8"},
		{&proxy, "featureGates", "A=true,B=false"},
		{&proxy, "logging.verbosity", "4"},
		{&proxy, "logging.vmodule", "run=4,loop*=5"},
		{&proxy, "logging.flushFrequency", "3s"},
		{&proxy, "logging.options.json.infoBufferSize", "4Ki"},
		{&own, "takeover", "false"},
		{&own, "userspace.port", "11"},
		{&own, "ipvs.drainTimeout", "1m0s"},
	} {
		f, err := Find(c.doc, c.path)
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		if f.Given() {
			t.Errorf("%s: is given in an empty document", c.path)
		}
		if err := f.Set(c.text); err != nil {
			t.Errorf("%s: set %s: %v", c.path, c.text, err)
		}
		if got := f.Text(); got != c.text {
			t.Errorf("%s: got %s, want %s", c.path, got, c.text)
		}
		if !f.Given() && c.text != "false" {
			t.Errorf("%s: is not given after it was set", c.path)
		}
	}
	if got := *proxy.Conntrack.TCPEstablishedTimeout; got.Duration != 0 {
		t.Errorf("conntrack.tcpEstablishedTimeout: %v", got)
	}
	if got := own.IPVS.DrainTimeout.Duration; got != time.Minute {
		t.Errorf("ipvs.drainTimeout: %v", got)
	}
}

func TestFieldErrors(t *testing.T) {
	var proxy kubeproxy.KubeProxyConfiguration
	for _, path := range []string{"", "nosuch", "ipvs.nosuch", "mode.below", "logging.options.json.nosuch"} {
		if _, err := Find(&proxy, path); err == nil {
			t.Errorf("Find(%q): no error", path)
		}
	}
	for path, text := range map[string]string{
		"conntrack.min": "x", "iptables.syncPeriod": "3", "enableProfiling": "2", "featureGates": "A",
		"clientConnection.qps": "x", "logging.verbosity": "-1", "logging.flushFrequency": "x", "logging.vmodule": "x",
		"logging.options.text.infoBufferSize": "x",
	} {
		f, err := Find(&proxy, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Set(text); err == nil {
			t.Errorf("%s: set %q: no error", path, text)
		}
	}
	f, err := Find(&proxy, "mode")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetList([]string{"a"}); err == nil {
		t.Error("a list as mode: no error")
	}
}

func TestPaths(t *testing.T) {
	got := Paths(&v1alpha1.IPVSConfiguration{})
	if d := cmp.Diff(got, []string{"vipMode", "drainTimeout"}); d != "" {
		t.Errorf("paths (-got +want):\n%s", d)
	}
	var proxy kubeproxy.KubeProxyConfiguration
	all := Paths(&proxy)
	if len(all) < 60 {
		t.Errorf("KubeProxyConfiguration has %d fields only: %q", len(all), all)
	}
	for _, p := range all {
		f, err := Find(&proxy, p)
		if err != nil {
			t.Error(err)
		} else if _, isList := f.List(); !isList && strings.HasPrefix(f.Text(), "{") {
			t.Errorf("%s: a struct of its own: %s", p, f.Text())
		}
	}
}

// TestYAML writes documents and reads them again.
func TestYAML(t *testing.T) {
	set := Set{Proxy: NewProxy(), Own: NewOwn()}
	set.Proxy.Mode, set.Own.Modes = "ipvs", []string{"ipvs", "iptables"}
	text, err := set.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if d := cmp.Diff(again.Own, set.Own); d != "" {
		t.Errorf("FairleadConfiguration read again (-got +want):\n%s", d)
	}
	if again.Proxy.Mode != "ipvs" || len(again.Warnings) > 0 {
		t.Errorf("KubeProxyConfiguration read again: mode %s, warnings %q", again.Proxy.Mode, again.Warnings)
	}
}
