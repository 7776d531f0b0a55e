//go:build linux

package lab

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNewestPackage(t *testing.T) {
	const stock = "linux-image-6.1.0-50-cloud-amd64"
	for _, c := range []struct{ name, offered, want string }{
		{"nothing", "", stock},
		{"itself", stock, stock},
		{"a later build of the series", "linux-image-6.1.0-51-cloud-amd64", stock},
		{"an older series", "linux-image-5.10.0-99-cloud-amd64", stock},
		{"other flavours", "linux-image-6.12.9-amd64 linux-image-6.12.9-cloud-amd64-dbg linux-image-6.12.9-cloud-amd64-unsigned", stock},
		{"a name that follows", "linux-image-6.12-cloud-amd64", stock},
		{"numbers, not letters", "linux-image-6.9.7+deb12-cloud-amd64 linux-image-6.12.9+deb12-cloud-amd64 linux-image-6.12.10+deb12-cloud-amd64",
			"linux-image-6.12.10+deb12-cloud-amd64"},
	} {
		if got := newestPackage(strings.Fields(c.offered), stock); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestScript(t *testing.T) {
	j := Job{
		Path: "/bin/x", Args: []string{"", "it's", "$HOME\nand more"}, Dir: "/a b",
		Env: []string{"A=1", "BAD-NAME=2", "nothing", "TMPDIR=/x", "PATH=/opt:/bin", "Q='"},
	}
	want := `export A='1'
export PATH='/opt:/bin':"$PATH"
export Q=''\'''
export FAIRLEAD_LAB='k'
cd '/a b' || exit 126
exec '/bin/x' '' 'it'\''s' '$HOME
and more'
`
	if diff := cmp.Diff(want, j.script(&Kernel{Name: "k"})); diff != "" {
		t.Errorf("script (-want +got):\n%s", diff)
	}
}

func TestConsoleKeepsTheEnd(t *testing.T) {
	var c console
	for range 3 * maxConsole {
		c.Write([]byte("a"))
	}
	c.Write([]byte("the end\r\n"))
	got := c.tail()
	if len(got) > maxConsole || !strings.HasSuffix(got, "athe end") {
		t.Errorf("got %d bytes that end in %q", len(got), got[max(0, len(got)-20):])
	}
}
