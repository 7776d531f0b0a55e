//go:build linux

package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed uml/xstate.c
var xstate []byte

// umlModules is where Debian's package has them.
const umlModules = "/usr/lib/uml/modules"

// UML finds user-mode Linux. The error says what is missing.
func UML(ctx context.Context) (*Kernel, error) {
	err := require(map[string]string{"linux.uml": "user-mode-linux", "cc": "gcc", "xtables-legacy-multi": "iptables"})
	if err != nil {
		return nil, fmt.Errorf("user-mode Linux: %w", err)
	}
	if _, err := os.Stat(umlModules); err != nil {
		return nil, fmt.Errorf("user-mode Linux: %w", err)
	}
	return &Kernel{
		Name: "uml", modules: umlModules, boot: bootUML,
		output: "/dev/ttyS0", result: "/dev/ttyS1",
	}, nil
}

func bootUML(ctx context.Context, b *box, l *lines) (*guest, error) {
	shim, err := compileXState(ctx, b)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("linux.uml",
		fmt.Sprintf("mem=%dM", b.job.Memory), "uml_dir="+b.dir+"/", "umid=guest",
		"rootfstype=hostfs", "rootflags=/", "ro", "init="+b.path("init"),
		"con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:3,fd:3", "ssl1=null,fd:4", "quiet")
	cmd.Env = []string{"LD_PRELOAD=" + shim, "PATH=" + os.Getenv("PATH"), "HOME=/", "TMPDIR=" + memoryDir(b)}
	cmd.Stdout, cmd.Stderr = l.console, l.console
	cmd.ExtraFiles = []*os.File{l.output.there, l.result.there}
	p, err := start(cmd, b.job.CPU)
	if err != nil {
		return nil, err
	}
	return &guest{main: p}, nil
}

// memoryDir is where the guest's memory, a file without a name, is kept. On a
// disk it would be written back.
func memoryDir(b *box) string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return b.dir
}

// compileXState builds uml/xstate.c, which says why. It is small enough to be
// built each time.
func compileXState(ctx context.Context, b *box) (string, error) {
	source, shim := b.path("xstate.c"), b.path("xstate.so")
	if err := os.WriteFile(source, xstate, 0o644); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "cc", "-shared", "-fPIC", "-O1", "-o", shim, source).CombinedOutput()
	if err != nil {
		return "", errors.Join(fmt.Errorf("compile %s: %w", filepath.Base(source), err), errors.New(strings.TrimSpace(string(out))))
	}
	return shim, nil
}
