package sysctl_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service/sysctl"
)

const (
	vs          = "/proc/sys/net/ipv4/vs/"
	reusePath   = vs + "conn_reuse_mode"
	releasePath = "/proc/sys/kernel/osrelease"
)

// vsFiles is a kernel of a release as it boots, with more files or other values.
func vsFiles(release string, more map[string]file) map[string]file {
	out := map[string]file{
		releasePath:                                {release + "\n", 0o444},
		vs + "conntrack":                           {"0\n", 0o644},
		vs + "expire_nodest_conn":                  {"0\n", 0o644},
		vs + "expire_quiescent_template":           {"0\n", 0o644},
		reusePath:                                  {"1\n", 0o644},
		"/proc/sys/net/ipv4/ip_forward":            {"0\n", 0o644},
		"/proc/sys/net/ipv4/conf/all/arp_ignore":   {"0\n", 0o644},
		"/proc/sys/net/ipv4/conf/all/arp_announce": {"0\n", 0o644},
	}
	for path, f := range more {
		if out[path] = f; f.mode == 0 {
			delete(out, path)
		}
	}
	return out
}

func TestIPVSSettings(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]file
		cfg   sysctl.IPVS
		want  map[string]string // that differ from what every kernel gets
	}{
		{"6.1", vsFiles("6.1.0-13-amd64", nil), sysctl.IPVS{}, nil},
		{"5.9", vsFiles("5.9-rc1", map[string]file{reusePath: {"0\n", 0o644}}), sysctl.IPVS{}, nil},
		{"10.0", vsFiles("10.0", nil), sysctl.IPVS{}, nil},
		{"5.4", vsFiles("5.4.0+", nil), sysctl.IPVS{}, map[string]string{reusePath: "0"}},
		{"4.19", vsFiles("4.19.300", nil), sysctl.IPVS{}, map[string]string{reusePath: "0"}},
		{"3.10 has no reuse mode", vsFiles("3.10.0-1160.el7", map[string]file{reusePath: {}}), sysctl.IPVS{}, map[string]string{reusePath: ""}},
		{"strict ARP", vsFiles("6.12.1", nil), sysctl.IPVS{StrictARP: true}, map[string]string{
			"/proc/sys/net/ipv4/conf/all/arp_ignore": "1", "/proc/sys/net/ipv4/conf/all/arp_announce": "2",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := tree(t, c.files)
			settings, err := sysctl.IPVSSettings(root, c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			changed, err := sysctl.Reassert(root, settings)
			if err != nil || !changed {
				t.Errorf("Reassert = %t, %v, want something to do", changed, err)
			}
			want := map[string]string{
				releasePath:      strings.TrimSpace(c.files[releasePath].value),
				vs + "conntrack": "1", vs + "expire_nodest_conn": "1", vs + "expire_quiescent_template": "1",
				reusePath: "1", "/proc/sys/net/ipv4/ip_forward": "1",
				"/proc/sys/net/ipv4/conf/all/arp_ignore": "0", "/proc/sys/net/ipv4/conf/all/arp_announce": "0",
			}
			for path, v := range c.want {
				if want[path] = v; v == "" {
					delete(want, path)
				}
			}
			if d := cmp.Diff(values(t, root, c.files), want); d != "" {
				t.Errorf("values (-got +want):\n%s", d)
			}
			if again, err := sysctl.Reassert(root, settings); again || err != nil {
				t.Errorf("a second Reassert = %t, %v, want nothing to do", again, err)
			}
		})
	}
}

func TestIPVSSettingsErrors(t *testing.T) {
	for name, files := range map[string]map[string]file{
		"no release":      vsFiles("6.1", map[string]file{releasePath: {}}),
		"strange release": vsFiles("six", nil),
	} {
		if _, err := sysctl.IPVSSettings(tree(t, files), sysctl.IPVS{}); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			contains(t, err, "release")
		}
	}
}

func TestReassertRepairs(t *testing.T) {
	asUser(t)
	files := vsFiles("6.1", nil)
	root := tree(t, files)
	settings, err := sysctl.IPVSSettings(root, sysctl.IPVS{})
	if err != nil {
		t.Fatal(err)
	}
	// One that cannot be written does not keep the others from being so.
	files[vs+"conntrack"] = file{"0\n", 0o444}
	root = tree(t, files)
	changed, err := sysctl.Reassert(root, settings)
	if !changed {
		t.Error("nothing was changed")
	}
	contains(t, err, vs+"conntrack")
	if got := values(t, root, files)["/proc/sys/net/ipv4/ip_forward"]; got != "1" {
		t.Errorf("ip_forward is %s after an error before it, want 1", got)
	}
	// Without the module there is nothing to set, and that is said.
	_, err = sysctl.Reassert(tree(t, map[string]file{releasePath: {"6.1\n", 0o444}}), settings)
	contains(t, err, vs+"expire_nodest_conn")
}

func TestReassertLeavesTheMachine(t *testing.T) {
	asUser(t)
	root := tree(t, map[string]file{maxPath: {"500\n", 0o444}})
	changed, err := sysctl.Reassert(root, []sysctl.Setting{{Path: maxPath, Want: "1000", Machine: true}})
	if changed || err != nil {
		t.Errorf("Reassert = %t, %v, want nothing done and no error", changed, err)
	}
}

func TestEaseEstimation(t *testing.T) {
	const estimation, nice = vs + "run_estimation", vs + "est_nice"
	for _, c := range []struct {
		name    string
		files   map[string]file
		want    map[string]string
		changed bool
	}{
		{"threads", map[string]file{estimation: {"1\n", 0o644}, nice: {"0\n", 0o644}}, map[string]string{estimation: "1", nice: "10"}, true},
		{"threads that are nicer already", map[string]file{nice: {"19\n", 0o644}}, map[string]string{nice: "19"}, false},
		{"threads of somebody else", map[string]file{nice: {"0\n", 0o444}}, map[string]string{nice: "0"}, false},
		{"timer", map[string]file{estimation: {"1\n", 0o644}}, map[string]string{estimation: "0"}, true},
		{"timer that is off", map[string]file{estimation: {"0\n", 0o644}}, map[string]string{estimation: "0"}, false},
		{"timer that cannot be switched off", nil, map[string]string{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			asUser(t)
			root := tree(t, c.files)
			changed, err := sysctl.EaseEstimation(root)
			if changed != c.changed || err != nil {
				t.Errorf("EaseEstimation = %t, %v, want %t", changed, err, c.changed)
			}
			if d := cmp.Diff(values(t, root, c.files), c.want); d != "" {
				t.Errorf("values (-got +want):\n%s", d)
			}
		})
	}
}

func TestIdleTimeouts(t *testing.T) {
	const udpPath = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream"
	tcp, udp, err := sysctl.IdleTimeouts(tree(t, map[string]file{estPath: {"86400\n", 0o644}, udpPath: {"120\n", 0o644}}))
	if tcp != 24*time.Hour || udp != 2*time.Minute || err != nil {
		t.Errorf("IdleTimeouts = %s, %s, %v, want 24h, 2m", tcp, udp, err)
	}
	tcp, _, err = sysctl.IdleTimeouts(tree(t, map[string]file{estPath: {"60\n", 0o644}}))
	if tcp != time.Minute {
		t.Errorf("TCP timeout %s, want 1m in spite of the other", tcp)
	}
	contains(t, err, udpPath)
	_, _, err = sysctl.IdleTimeouts(tree(t, map[string]file{estPath: {"long\n", 0o644}, udpPath: {"1\n", 0o644}}))
	contains(t, err, estPath)
}
