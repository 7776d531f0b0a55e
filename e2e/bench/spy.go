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

// spyScript stands for one of the iptables programs, and notes how it was called.
const spyScript = `#!/bin/sh
echo "${0##*/} $*" >>'%s'
exec '%s' "${0##*/}" "$@"
`

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
	script := fmt.Appendf(nil, spyScript, s.log, target)
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, kind := range []string{"", "-" + string(v)} {
			for _, suffix := range []string{"", "-save", "-restore"} {
				if err := os.WriteFile(filepath.Join(s.dir, family+kind+suffix), script, 0o755); err != nil {
					return nil, err
				}
			}
		}
	}
	return s, nil
}

// calls returns how many of the calls so far were to change something.
func (s *spy) calls() (writing, all int, err error) {
	data, err := os.ReadFile(s.log)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	for line := range strings.Lines(string(data)) {
		all++
		if writesRules(strings.Fields(line)) {
			writing++
		}
	}
	return writing, all, err
}

// writesRules reports whether a command line of iptables is to change something.
func writesRules(words []string) bool {
	if len(words) == 0 {
		return false
	}
	has := func(flags ...string) bool {
		return slices.ContainsFunc(words[1:], func(w string) bool { return slices.Contains(flags, w) })
	}
	switch {
	case strings.HasSuffix(words[0], "-save"):
		return false
	case strings.HasSuffix(words[0], "-restore"):
		return !has("--test", "-t", "--version", "-V")
	default:
		return has("-A", "-I", "-D", "-R", "-N", "-X", "-F", "-P", "-E", "-Z", "--append", "--insert", "--delete",
			"--replace", "--new-chain", "--delete-chain", "--flush", "--policy", "--rename-chain", "--zero")
	}
}
