package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/cmd/fairlead/gates"
)

// protobuf is how clients of the API server talk to it by default.
const protobuf = "application/vnd.kubernetes.protobuf"

// fileFlags say where more settings are, and what to do instead of running.
type fileFlags struct {
	Config        string
	OwnConfig     string
	WriteConfigTo string
	Cleanup       bool
	InitOnly      bool
	Version       string // "true", "false" or "raw"
}

func (f *fileFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.Config, "config", "", "file with a KubeProxyConfiguration; flags that kube-proxy has are not looked at then, apart from --hostname-override, --master, those of logging, and those that say what to do")
	fs.StringVar(&f.OwnConfig, "fairlead-config", "", "file with a FairleadConfiguration, for what kube-proxy does not have; flags win over it (not in kube-proxy)")
	fs.StringVar(&f.WriteConfigTo, "write-config-to", "", "write every setting in force to this file, and exit")
	fs.BoolVar(&f.Cleanup, "cleanup", false, "do what fairlead cleanup does, and exit")
	fs.BoolVar(&f.InitOnly, "init-only", false, "set kernel parameters, and exit; what runs afterwards needs no right to write them")
}

// addVersion is apart from the rest, to be the last.
func (f *fileFlags) addVersion(fs *pflag.FlagSet) {
	f.Version = "false"
	fs.StringVar(&f.Version, "version", f.Version, "print the version, or with raw what it was built from, and exit")
	fs.Lookup("version").NoOptDefVal = "true"
}

// A compatFlags holds flags of kube-proxy that matter little here.
type compatFlags struct {
	FeatureGates []string
	ContentType  string
	HealthzPort  int
	MetricsPort  int

	// What nothing is done with.
	ShowHiddenMetrics string
	BootIDFile        string
	MachineIDFile     string
}

func (f *compatFlags) add(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.FeatureGates, "feature-gates", nil, "feature gates of Kubernetes, NAME=true or NAME=false, which are checked and change nothing here")
	fs.StringVar(&f.ContentType, "kube-api-content-type", protobuf, "how to talk to the API server: "+protobuf+" or application/json")
	fs.IntVar(&f.HealthzPort, "healthz-port", 10256, "as in kube-proxy, 0 disables what --healthz-bind-address enables, and anything else is for an address without a port")
	fs.IntVar(&f.MetricsPort, "metrics-port", 10249, "the same for --metrics-bind-address")
	fs.StringVar(&f.ShowHiddenMetrics, "show-hidden-metrics-for-version", "", "accepted for kube-proxy's sake; no metric is hidden here")
	fs.StringVar(&f.BootIDFile, "boot-id-file", "/proc/sys/kernel/random/boot_id", "accepted for kube-proxy's sake, which does not read it either")
	fs.StringVar(&f.MachineIDFile, "machine-id-file", "/etc/machine-id,/var/lib/dbus/machine-id", "accepted for kube-proxy's sake, which does not read it either")
	for _, name := range []string{"healthz-port", "metrics-port", "show-hidden-metrics-for-version", "boot-id-file", "machine-id-file"} {
		fs.Lookup(name).Hidden = true
	}
}

func (f *compatFlags) check(fail failFunc) {
	set, err := gates.Parse(strings.Join(f.FeatureGates, ","))
	if err == nil {
		_, err = gates.Resolve(set)
	}
	if err != nil {
		fail("feature-gates", "%w", err)
	}
	if f.ContentType != protobuf && f.ContentType != "application/json" {
		fail("kube-api-content-type", "%q is neither %s nor application/json", f.ContentType, protobuf)
	}
	for name, port := range map[string]int{"healthz-port": f.HealthzPort, "metrics-port": f.MetricsPort} {
		if port < 0 || port > 65535 {
			fail(name, "%d is not between 0 and 65535", port)
		}
	}
	if v := f.ShowHiddenMetrics; v != "" {
		var major, minor uint
		if n, err := fmt.Sscanf(v, "%d.%d", &major, &minor); n != 2 || err != nil {
			fail("show-hidden-metrics-for-version", "%q is not of the form 1.35", v)
		}
	}
}
