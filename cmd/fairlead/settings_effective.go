package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"github.com/fairlead-project/fairlead/cmd/fairlead/document"
)

// mode is a proxy mode in kube-proxy's document.
type mode = kubeproxy.ProxyMode

// effective returns the documents that say what is in force, every field given, and read by us again mean the same. What
// nothing is done with is as it was read.
//
// The mode is in kube-proxy's document if that is one of kube-proxy, so that it can read it; all modes are in ours.
func (l *loader) effective() (document.Set, error) {
	set := document.Set{Proxy: document.NewProxy(), Own: document.NewOwn()}
	if l.docs.Proxy != nil {
		set.Proxy = l.docs.Proxy.DeepCopy()
	}
	for _, s := range settings() {
		fl := l.fs.Lookup(s.flag)
		if err := put(fl, set.Proxy, s.proxy); err != nil {
			return set, err
		}
		if err := put(fl, set.Own, s.own); err != nil {
			return set, err
		}
	}
	modes, err := parseModes(l.flags.ProxyMode)
	if err != nil {
		return set, err
	}
	set.Own.Modes = modes
	set.Proxy.Mode = modeIptables
	if i := slices.IndexFunc(modes, func(m string) bool { return m != modeUserspace }); i >= 0 {
		set.Proxy.Mode = mode(modes[i])
	}
	l.fill(set.Proxy)
	return set, nil
}

// put writes the value of a flag into a document; an empty path is nowhere.
func put(fl *pflag.Flag, doc any, path string) error {
	if path == "" {
		return nil
	}
	field, err := document.Find(doc, path)
	if err != nil {
		return err
	}
	list, isList := fl.Value.(pflag.SliceValue)
	_, wantsList := field.List()
	switch {
	case isList && wantsList:
		err = field.SetList(list.GetSlice())
	case isList:
		err = field.Set(strings.Join(list.GetSlice(), ","))
	default:
		err = field.Set(fl.Value.String())
	}
	if err != nil {
		return fmt.Errorf("--%s as %s: %w", fl.Name, path, err)
	}
	return nil
}

// fill makes what a reader would take for a missing value a value: an address that is empty because the server is
// switched off, and a period of nothing. What is for kube-proxy's mode nftables gets kube-proxy's defaults.
func (l *loader) fill(p *kubeproxy.KubeProxyConfiguration) {
	p.HostnameOverride = strings.ToLower(strings.TrimSpace(p.HostnameOverride))
	p.HealthzBindAddress = filledAddr(p.HealthzBindAddress, defaultHealthz)
	p.MetricsBindAddress = filledAddr(p.MetricsBindAddress, defaultMetrics)
	p.PortRange = "" // as kube-proxy does, to which it means nothing
	p.IPTables.MinSyncPeriod.Duration = max(p.IPTables.MinSyncPeriod.Duration, 1)
	if p.NFTables.MasqueradeBit == nil {
		bit := int32(14)
		p.NFTables.MasqueradeBit = &bit
	}
	p.NFTables.SyncPeriod.Duration = cmp.Or(p.NFTables.SyncPeriod.Duration, 30*time.Second)
	p.NFTables.MinSyncPeriod.Duration = cmp.Or(p.NFTables.MinSyncPeriod.Duration, time.Second)
}

// filledAddr returns an address to listen on in full, with port 0 if there is to be none.
func filledAddr(addr, whole string) string {
	host, port, _ := strings.Cut(whole, ":")
	full, err := parseListen(addr, port)
	switch {
	case err != nil: // has been refused before
		return addr
	case full == "":
		return host + ":0"
	default:
		return full
	}
}
