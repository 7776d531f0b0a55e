//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The scripts stand for the iptables programs, and note how they were called; that
// for iptables-restore also notes what it was given.
const (
	spyScript = `#!/bin/sh
echo "${0##*/} $*" >>'%s'
exec '%s' "${0##*/}" "$@"
`
	spyRestore = `#!/bin/sh
case " $* " in *" --version "* | *" -V "* | *" --test "* | *" -t "*) exec '%[2]s' "${0##*/}" "$@" ;; esac
tee -a '%[1]s' | '%[2]s' "${0##*/}" "$@"
`
)

// spy is a folder of iptables programs that note how they are called. The legacy
// ones do not speak netlink, so that is the way to see them write.
type spy struct{ dir, log string }

// newSpy makes one below a folder. It costs time: measure none with it.
func newSpy(dir string, v variant) (*spy, error) {
	target, err := exec.LookPath(v.multi())
	if err != nil {
		return nil, fmt.Errorf("iptables variant %s: %w", v, err)
	}
	s := &spy{dir: filepath.Join(dir, "spy"), log: filepath.Join(dir, "spy.log")}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return nil, err
	}
	scripts := map[string]string{"": spyScript, "-save": spyScript, "-restore": spyRestore}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, kind := range []string{"", "-" + string(v)} {
			for suffix, script := range scripts {
				text := fmt.Appendf(nil, script, s.log, target)
				if err := os.WriteFile(filepath.Join(s.dir, family+kind+suffix), text, 0o755); err != nil {
					return nil, err
				}
			}
		}
	}
	return s, nil
}

// written returns what the programs were asked to change in chains that there
// were before, in the words of iptables, and how much they were asked to change
// elsewhere.
func (s *spy) written(exists func(chain string) bool) (inForce []string, trials int, err error) {
	data, err := os.ReadFile(s.log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	for line := range strings.Lines(string(data)) {
		chain, ok := chainWritten(strings.Fields(line))
		switch {
		case !ok:
		case exists(chain):
			inForce = append(inForce, strings.TrimSpace(line))
		default:
			trials++
		}
	}
	return inForce, trials, err
}

// chainWritten returns the chain that a command line of iptables, or a line that
// iptables-restore reads, is to change; false if it changes none.
func chainWritten(words []string) (chain string, ok bool) {
	if len(words) == 0 || strings.HasSuffix(words[0], "-save") {
		return "", false
	}
	if name, ok := strings.CutPrefix(words[0], ":"); ok {
		return name, true
	}
	changing := []string{"-A", "-I", "-D", "-R", "-N", "-X", "-F", "-P", "-E", "-Z"}
	for i, w := range words[:len(words)-1] {
		if slices.Contains(changing, w) {
			return words[i+1], true
		}
	}
	return "", false
}
