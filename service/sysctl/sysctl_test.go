package sysctl_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service/sysctl"
)

const (
	maxPath  = "/proc/sys/net/netfilter/nf_conntrack_max"
	hashPath = "/sys/module/nf_conntrack/parameters/hashsize"
	estPath  = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established"
)

func TestConntrackSettings(t *testing.T) {
	tests := []struct {
		name string
		cfg  sysctl.Conntrack
		ncpu int
		want []sysctl.Setting
	}{
		{name: "zero leaves everything alone", ncpu: 8},
		{name: "min without max per core is ignored", cfg: sysctl.Conntrack{Min: 5000}, ncpu: 8},
		{name: "min lifts a small machine", cfg: sysctl.Conntrack{MaxPerCore: 32768, Min: 131072}, ncpu: 2, want: sized("131072", "32768")},
		{name: "per core", cfg: sysctl.Conntrack{MaxPerCore: 32768, Min: 131072}, ncpu: 8, want: sized("262144", "65536")},
		{name: "limit on a large machine", cfg: sysctl.Conntrack{MaxPerCore: 32768, Min: 131072}, ncpu: 128, want: sized("1048576", "262144")},
		{name: "min above the limit", cfg: sysctl.Conntrack{MaxPerCore: 1, Min: 4 << 20}, ncpu: 1, want: sized("4194304", "1048576")},
		{name: "limit beats min", cfg: sysctl.Conntrack{MaxPerCore: 32768, Min: 4 << 20}, ncpu: 33, want: sized("1048576", "262144")},
		{name: "just the limit", cfg: sysctl.Conntrack{MaxPerCore: 32768, Min: 131072}, ncpu: 32, want: sized("1048576", "262144")},
		{name: "no overflow", cfg: sysctl.Conntrack{MaxPerCore: 1 << 62}, ncpu: 64, want: sized("1048576", "262144")},
		{
			name: "timeouts and flag",
			cfg: sysctl.Conntrack{
				TCPEstablishedTimeout: 24 * time.Hour, TCPCloseWaitTimeout: time.Hour,
				UDPTimeout: 300 * time.Millisecond, UDPStreamTimeout: 90 * time.Second, TCPBeLiberal: true,
			},
			want: []sysctl.Setting{
				{Path: "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", Want: "1"},
				{Path: estPath, Want: "86400"},
				{Path: "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait", Want: "3600"},
				{Path: "/proc/sys/net/netfilter/nf_conntrack_udp_timeout", Want: "1"},
				{Path: "/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", Want: "90"},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := sysctl.ConntrackSettings(tt.cfg, tt.ncpu)
			if d := cmp.Diff(got, tt.want); d != "" {
				t.Errorf("settings (-got +want):\n%s", d)
			}
		})
	}
}

func sized(entries, buckets string) []sysctl.Setting {
	return []sysctl.Setting{
		{Path: maxPath, Want: entries, Machine: true},
		{Path: hashPath, Want: buckets, AtLeast: true, Machine: true},
	}
}

// A file is one kernel parameter of a test: its value and its permissions.
type file struct {
	value string
	mode  fs.FileMode
}

type applyCase struct {
	name     string
	files    map[string]file
	settings []sysctl.Setting
	want     map[string]string // values afterwards
	skipped  []string          // parts of each message
	err      []string          // parts of the message, nil for none
}

func applyCases() []applyCase {
	const count = "/proc/sys/net/netfilter/nf_conntrack_count"
	sizing := sized("1000", "250")
	return []applyCase{
		{
			name:     "writes what differs",
			files:    map[string]file{maxPath: {"500\n", 0o644}, hashPath: {"100\n", 0o600}},
			settings: sizing,
			want:     map[string]string{maxPath: "1000", hashPath: "250"},
		},
		{
			name:     "lowers the maximum but not the hash table",
			files:    map[string]file{maxPath: {"5000\n", 0o644}, hashPath: {"900\n", 0o600}},
			settings: sizing,
			want:     map[string]string{maxPath: "1000", hashPath: "900"},
		},
		{
			name:     "equal values need no permission",
			files:    map[string]file{maxPath: {"1000\n", 0o444}, hashPath: {"250\n", 0o444}},
			settings: sizing,
			want:     map[string]string{maxPath: "1000", hashPath: "250"},
		},
		{
			name:     "another network namespace",
			files:    map[string]file{maxPath: {"500\n", 0o444}, hashPath: {"250\n", 0o444}},
			settings: sizing,
			want:     map[string]string{maxPath: "500", hashPath: "250"},
			skipped:  []string{maxPath},
		},
		{
			// Write permission, though not for us: not how the kernel keeps it from a namespace.
			name:     "no right to write in the first network namespace",
			files:    map[string]file{maxPath: {"500\n", 0o464}, hashPath: {"250\n", 0o600}},
			settings: sizing,
			want:     map[string]string{maxPath: "500", hashPath: "250"},
			err:      []string{maxPath, "1000", "it is 500"},
		},
		{
			name:     "another network namespace, hidden",
			files:    map[string]file{count: {"3\n", 0o444}, hashPath: {"250\n", 0o444}},
			settings: sizing,
			want:     map[string]string{hashPath: "250"},
			skipped:  []string{maxPath},
		},
		{
			name:     "no module",
			settings: sizing,
			skipped:  []string{hashPath},
			err:      []string{maxPath, "1000"},
		},
		{
			name:     "one failure does not stop the rest",
			files:    map[string]file{estPath: {"7\n", 0o444}, "/proc/sys/net/ipv4/conf/all/route_localnet": {"0\n", 0o644}},
			settings: []sysctl.Setting{{Path: estPath, Want: "86400"}, sysctl.RouteLocalnet()},
			want:     map[string]string{estPath: "7", "/proc/sys/net/ipv4/conf/all/route_localnet": "1"},
			err:      []string{estPath, "86400", "it is 7"},
		},
		{
			name:     "not a number",
			files:    map[string]file{hashPath: {"many\n", 0o600}},
			settings: sizing[1:],
			want:     map[string]string{hashPath: "many"},
			err:      []string{hashPath, "many"},
		},
	}
}

func TestApply(t *testing.T) {
	for _, tt := range applyCases() {
		t.Run(tt.name, func(t *testing.T) {
			asUser(t)
			root := tree(t, tt.files)
			skipped, err := sysctl.Apply(root, tt.settings)
			if len(skipped) != len(tt.skipped) {
				t.Errorf("skipped %v, want %d", skipped, len(tt.skipped))
			}
			for i := range min(len(skipped), len(tt.skipped)) {
				contains(t, skipped[i], tt.skipped[i])
			}
			if (err != nil) != (tt.err != nil) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			for _, part := range tt.err {
				contains(t, err, part)
			}
			if d := cmp.Diff(values(t, root, tt.files), tt.want); d != "" && len(tt.want) > 0 {
				t.Errorf("values (-got +want):\n%s", d)
			}
		})
	}
}

func TestTCPBeLiberal(t *testing.T) {
	const path = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal"
	for value, want := range map[string]bool{"0\n": false, "1\n": true} {
		got, err := sysctl.TCPBeLiberal(tree(t, map[string]file{path: {value, 0o644}}))
		if got != want || err != nil {
			t.Errorf("TCPBeLiberal with %q = %t, %v, want %t, nil", value, got, err, want)
		}
	}
	if got, err := sysctl.TCPBeLiberal(t.TempDir()); got || err == nil {
		t.Errorf("TCPBeLiberal without the file = %t, %v, want false and an error", got, err)
	}
}

func TestOnlineCPUs(t *testing.T) {
	for list, want := range map[string]int{"0\n": 1, "0-3\n": 4, "0-1,4,6-7\n": 5, "\n": 0, "3-1\n": 0, "a-b": 0} {
		root := tree(t, map[string]file{"/sys/devices/system/cpu/online": {list, 0o444}})
		got, err := sysctl.OnlineCPUs(root)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("OnlineCPUs with %q = %d, %v, want %d", list, got, err, want)
		}
	}
}

func tree(t *testing.T, files map[string]file) string {
	t.Helper()
	root := t.TempDir()
	for path, f := range files {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(f.value), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(full, f.mode); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func values(t *testing.T, root string, files map[string]file) map[string]string {
	t.Helper()
	got := make(map[string]string)
	for path := range files {
		if strings.HasSuffix(path, "_count") {
			continue
		}
		v, err := sysctl.Read(root, path)
		if err != nil {
			t.Fatal(err)
		}
		got[path] = v
	}
	return got
}

func contains(t *testing.T, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want %q in it", err, part)
	}
}
