//go:build linux

package lab

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed guest/*.sh
var scripts embed.FS

// A box is a folder of the host that a guest finds what it has to do in. The
// guest cannot write to it.
type box struct {
	dir string
	job *Job
}

func newBox(k *Kernel, j *Job) (*box, error) {
	if !filepath.IsAbs(j.Path) {
		return nil, fmt.Errorf("the program %q is not named by its absolute path", j.Path)
	}
	dir, err := os.MkdirTemp("", "fairlead-lab-")
	if err != nil {
		return nil, err
	}
	b := &box{dir: dir, job: j}
	if err := b.fill(k); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *box) close() error { return os.RemoveAll(b.dir) }

func (b *box) path(name string) string { return filepath.Join(b.dir, name) }

func (b *box) fill(k *Kernel) error {
	shares, err := b.job.shares()
	if err != nil {
		return err
	}
	files := map[string]string{
		"vars":   b.vars(k),
		"init":   "#!/bin/sh\n" + b.vars(k) + ". \"$lab/uml.sh\"\n",
		"lines":  fmt.Sprintf("output=%s\nresult=%s\n", k.output, k.result),
		"job":    b.job.script(k),
		"shares": shares,
	}
	if b.job.Input != nil {
		files["interactive"] = ""
	}
	names, err := fs.Glob(scripts, "guest/*.sh")
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := scripts.ReadFile(name)
		if err != nil {
			return err
		}
		files[filepath.Base(name)] = string(text)
	}
	for name, text := range files {
		if err := os.WriteFile(b.path(name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	// For modprobe -d, before there is a /lib/modules to write to.
	return errors.Join(
		os.Mkdir(b.path("memory"), 0o755),
		os.Mkdir(b.path("lib"), 0o755),
		os.Symlink(k.modules, b.path("lib/modules")),
	)
}

// vars is what guest/root.sh wants to know.
func (b *box) vars(k *Kernel) string {
	return fmt.Sprintf("lab=%s\nmodules=%s\n", quote(b.dir), quote(k.modules))
}

// shares lists what the guest would not see without being told to, a line each,
// parents before what is in them.
func (j *Job) shares() (string, error) {
	var out []string
	for _, p := range append([]string{j.Path, j.Dir}, j.Share...) {
		if p == "" || !hidden(p) {
			continue
		}
		if strings.Contains(p, "\n") {
			return "", fmt.Errorf("share %q: a newline in a name", p)
		}
		if _, err := os.Stat(p); err != nil {
			return "", fmt.Errorf("share: %w", err)
		}
		out = append(out, filepath.Clean(p))
	}
	slices.Sort(out)
	var text strings.Builder
	for _, p := range slices.Compact(out) {
		text.WriteString(p + "\n")
	}
	return text.String(), nil
}

// hidden reports whether a path is where the guest has folders of its own.
func hidden(path string) bool {
	return slices.ContainsFunc([]string{"/tmp/", "/var/tmp/", "/run/"}, func(dir string) bool {
		return strings.HasPrefix(filepath.Clean(path)+"/", dir)
	})
}

// script is what a shell runs to do the job. The environment it begins with is
// that of process 1.
func (j *Job) script(k *Kernel) string {
	env := j.Env
	if env == nil {
		env = os.Environ()
	}
	var s strings.Builder
	for _, kv := range env {
		name, value, ok := strings.Cut(kv, "=")
		switch {
		case !ok || !identifier(name) || slices.Contains([]string{"TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}, name):
		case name == "PATH":
			fmt.Fprintf(&s, "export PATH=%s:\"$PATH\"\n", quote(value))
		default:
			fmt.Fprintf(&s, "export %s=%s\n", name, quote(value))
		}
	}
	fmt.Fprintf(&s, "export %s=%s\n", Inside, quote(k.Name))
	if j.Dir != "" {
		fmt.Fprintf(&s, "cd %s || exit 126\n", quote(j.Dir))
	}
	s.WriteString("exec")
	for _, arg := range append([]string{j.Path}, j.Args...) {
		s.WriteString(" " + quote(arg))
	}
	return s.String() + "\n"
}

func identifier(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}

// quote makes one word of a text, for a shell.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
