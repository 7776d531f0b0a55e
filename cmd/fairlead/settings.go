package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fairlead-project/fairlead/cmd/fairlead/document"
)

// A remark is what there is to say about settings once there is a log.
type remark struct {
	level slog.Level
	text  string
	attrs []any
}

// A loader puts what files say where the flags are.
type loader struct {
	flags   *flags
	fs      *pflag.FlagSet
	docs    document.Set
	proxyIn string // the file that docs.Proxy is from
	ownIn   string // the file that docs.Own is from
	remarks []remark
}

// load makes f hold every setting in force, from the command line that fs has parsed, and from the files it names. What
// is in them is checked as flags are, by f.config. It returns the documents, and what is to be said about it all.
//
// As in kube-proxy, --config leaves most flags unread: see [setting]. Flags that kube-proxy does not have win over
// files.
func load(f *flags, fs *pflag.FlagSet) (*loader, error) {
	l := &loader{flags: f, fs: fs}
	f.origin = make(map[string]string)
	fs.Visit(func(fl *pflag.Flag) { f.origin[fl.Name] = "--" + fl.Name })
	if err := l.read(); err != nil {
		return nil, err
	}
	if l.docs.Proxy != nil {
		l.adopt()
		if err := l.applyProxy(); err != nil {
			return nil, err
		}
	}
	if l.docs.Own != nil {
		if err := l.applyOwn(); err != nil {
			return nil, err
		}
	}
	l.source()
	l.ports()
	f.complete()
	l.remarkable()
	return l, nil
}

// read reads the files that the flags name.
func (l *loader) read() error {
	if name := l.flags.Files.Config; name != "" {
		set, err := parseFile(name)
		if err != nil {
			return err
		}
		if set.Proxy == nil {
			return fmt.Errorf("%s: has no KubeProxyConfiguration; a file with nothing but a FairleadConfiguration is for --fairlead-config", name)
		}
		l.docs, l.proxyIn, l.ownIn = set, name, name
	}
	name := l.flags.Files.OwnConfig
	if name == "" {
		return nil
	}
	set, err := parseFile(name)
	switch {
	case err != nil:
		return err
	case set.Proxy != nil:
		return fmt.Errorf("%s: a KubeProxyConfiguration is for --config", name)
	case l.docs.Own != nil:
		return fmt.Errorf("%s: a second FairleadConfiguration; one is in %s", name, l.proxyIn)
	}
	l.docs.Own, l.ownIn = set.Own, name
	return nil
}

func parseFile(name string) (document.Set, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return document.Set{}, fmt.Errorf("read configuration: %w", err) // names the file
	}
	set, err := document.Parse(data)
	if err != nil {
		return document.Set{}, fmt.Errorf("%s: %w", name, err)
	}
	return set, nil
}

// adopt makes a configuration for kube-proxy's nftables mode one for ours, if a FairleadConfiguration says which: what
// kube-proxy would do by it, it does here.
func (l *loader) adopt() {
	p := l.docs.Proxy
	if p.Mode != "nftables" || l.docs.Own == nil || len(l.docs.Own.Modes) == 0 {
		return
	}
	never := false
	p.IPTables.MasqueradeAll, p.IPTables.MasqueradeBit = p.NFTables.MasqueradeAll, p.NFTables.MasqueradeBit
	p.IPTables.SyncPeriod, p.IPTables.MinSyncPeriod = p.NFTables.SyncPeriod, p.NFTables.MinSyncPeriod
	p.IPTables.LocalhostNodePorts = &never
	if len(p.NodePortAddresses) == 0 {
		p.NodePortAddresses = []string{"primary"}
	}
	p.Mode = "" // which modes there are instead, Own says
	l.say(slog.LevelInfo, "what is configured for nftables holds for the mode in force", "file", l.proxyIn,
		"fields", "nftables.masqueradeAll, nftables.masqueradeBit, nftables.syncPeriod, nftables.minSyncPeriod, nodePortAddresses")
}

func (l *loader) applyProxy() error {
	for _, w := range l.docs.Warnings {
		l.say(slog.LevelWarn, "ignored, as kube-proxy does", "file", l.proxyIn, "field", w)
	}
	for _, s := range append(proxySettings(), logSettings()...) {
		fl := l.fs.Lookup(s.flag)
		if fl.Changed && s.always {
			if s.flag == "vmodule" && len(l.docs.Proxy.Logging.VModule) > 0 { // both hold, the flag first
				field, err := document.Find(l.docs.Proxy, s.proxy)
				if err != nil {
					return err
				}
				l.flags.Log.VModule += "," + field.Text()
			}
			continue
		}
		if fl.Changed {
			l.say(slog.LevelWarn, "a flag is not looked at, as in kube-proxy, since there is a configuration file",
				"flag", "--"+s.flag, "file", l.proxyIn)
		}
		if err := l.reset(fl); err != nil {
			return err
		}
		if s.proxy == "" {
			continue
		}
		field, err := document.Find(l.docs.Proxy, s.proxy)
		if err != nil {
			return err
		}
		if !field.Given() && !s.zero {
			continue
		}
		if err := l.set(fl, field, l.proxyIn+": "+s.proxy); err != nil {
			return err
		}
	}
	return nil
}

// applyOwn sets what FairleadConfiguration gives and no flag does.
func (l *loader) applyOwn() error {
	if mode := l.flags.ProxyMode; l.proxyIn != "" && mode != "" && len(l.docs.Own.Modes) > 0 {
		l.say(slog.LevelInfo, "modes win over mode", "mode", mode, "modes", strings.Join(l.docs.Own.Modes, ","), "file", l.ownIn)
	}
	for _, s := range settings() {
		if s.own == "" {
			continue
		}
		field, err := document.Find(l.docs.Own, s.own)
		if err != nil {
			return err
		}
		fl := l.fs.Lookup(s.flag)
		if !field.Given() || strings.HasPrefix(l.flags.origin[s.flag], "--") {
			continue
		}
		if err := l.set(fl, field, l.ownIn+": "+s.own); err != nil {
			return err
		}
	}
	return nil
}

// reset makes a flag be as it is when it is not given.
func (l *loader) reset(fl *pflag.Flag) error {
	delete(l.flags.origin, fl.Name)
	if list, ok := fl.Value.(pflag.SliceValue); ok {
		return list.Replace(nil) // no list has a default
	}
	if err := fl.Value.Set(fl.DefValue); err != nil {
		return fmt.Errorf("--%s: its default: %w", fl.Name, err)
	}
	return nil
}

// set gives a flag the value of a field.
func (l *loader) set(fl *pflag.Flag, field document.Field, from string) error {
	l.flags.origin[fl.Name] = from
	var err error
	if list, ok := fl.Value.(pflag.SliceValue); ok {
		items, isList := field.List()
		if !isList {
			items = strings.Split(field.Text(), ",")
		}
		err = list.Replace(slices.Clone(items))
	} else {
		err = fl.Value.Set(field.Text())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return nil
}

// source forgets the way to an API server that a file has, if a folder of manifests is followed instead.
func (l *loader) source() {
	from := l.flags.origin["kubeconfig"]
	if l.flags.Manifests == "" || from == "" || from == "--kubeconfig" {
		return
	}
	l.flags.Kubeconfig = ""
	l.say(slog.LevelInfo, "no API server is asked, since a folder of manifests is followed", "not read", from)
}

// ports obeys two flags that kube-proxy has deprecated, as far as it does: only without a file, and an address that
// has a port keeps it.
func (l *loader) ports() {
	for _, p := range []struct {
		flag, addr string
		port       int
		to         *string
	}{
		{"healthz-port", "healthz-bind-address", l.flags.Compat.HealthzPort, &l.flags.HealthzBindAddress},
		{"metrics-port", "metrics-bind-address", l.flags.Compat.MetricsPort, &l.flags.MetricsBindAddress},
	} {
		if l.flags.origin[p.flag] == "" || l.flags.Files.WriteConfigTo != "" {
			continue
		}
		l.say(slog.LevelWarn, "a flag is deprecated", "flag", "--"+p.flag, "instead", "--"+p.addr)
		if p.port == 0 {
			*p.to = ""
			l.flags.origin[p.addr] = "--" + p.flag
		} else if a := *p.to; a != "" && !hasPort(a) {
			*p.to = withPort(a, p.port)
		}
	}
}

// remarkable says what has no effect, once for each setting that was given another value than its default.
func (l *loader) remarkable() {
	for _, s := range settings() {
		fl := l.fs.Lookup(s.flag)
		if from := l.flags.origin[s.flag]; s.noop != "" && from != "" && fl.Value.String() != fl.DefValue {
			l.say(slog.LevelWarn, "a setting has no effect", "setting", from, "because", s.noop)
		}
	}
	if words := strings.Split(l.flags.ProxyMode, ","); len(words) > 1 && slices.Contains(words, modeNFTables) {
		l.say(slog.LevelWarn, "nftables is a proxy mode of kube-proxy only; the others are tried", "setting", l.flags.label("proxy-mode"))
	}
	if l.docs.Proxy == nil {
		return
	}
	reasons := flagless()
	for _, path := range slices.Sorted(maps.Keys(reasons)) {
		field, err := document.Find(l.docs.Proxy, path)
		if err == nil && field.Given() && reasons[path] != "" {
			l.say(slog.LevelWarn, "a setting has no effect", "setting", l.proxyIn+": "+path, "because", reasons[path])
		}
	}
}

func (l *loader) say(level slog.Level, text string, attrs ...any) {
	l.remarks = append(l.remarks, remark{level, text, attrs})
}

// label names a flag, or where else its value is from.
func (f *flags) label(flag string) string { return cmp.Or(f.origin[flag], "--"+flag) }

// fromFile reports whether anything was read from a file, whose faults are not those of the command line.
func (f *flags) fromFile() bool { return f.Files.Config != "" || f.Files.OwnConfig != "" }
