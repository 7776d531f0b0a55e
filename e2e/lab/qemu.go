//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// QEMU finds QEMU and a kernel for it, which is downloaded the first time. The
// error says what is missing; it is [ErrNoneNewer] if want is Newest and that is
// what Stock gives.
func QEMU(ctx context.Context, want Choice) (*Kernel, error) {
	err := require(map[string]string{
		"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static",
		"depmod": "kmod", "xz": "xz-utils", "zstd": "zstd", "apt-get": "apt", "dpkg": "dpkg",
	})
	if err != nil {
		return nil, fmt.Errorf("QEMU: %w", err)
	}
	q := &qemu{}
	if q.files, err = findFileServer(ctx); err != nil {
		return nil, fmt.Errorf("QEMU: %w", err)
	}
	if q.kernel, err = fetchKernel(ctx, want); err != nil {
		return nil, fmt.Errorf("QEMU: %w", err)
	}
	return &Kernel{
		Name: "qemu-" + q.kernel.series(), Slow: true, modules: q.kernel.modules, boot: q.boot,
		output: "/dev/ttyS1", result: "/dev/ttyS2",
	}, nil
}

// qemu is what QEMU needs to boot a kernel.
type qemu struct {
	files  fileServer
	kernel *bootable
}

func (q *qemu) boot(ctx context.Context, b *box, l *lines) (*guest, error) {
	initrd := b.path("initrd")
	if err := q.kernel.writeInitramfs(ctx, initrd, b); err != nil {
		return nil, err
	}
	files, err := q.files.start(ctx, b)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("qemu-system-x86_64", q.args(b, initrd)...)
	cmd.Stdout, cmd.Stderr = l.console, l.console
	cmd.ExtraFiles = []*os.File{l.output.there, l.result.there}
	main, err := start(cmd, 0)
	if err != nil {
		return nil, errors.Join(err, files.end())
	}
	return &guest{main: main, servers: []*process{files}}, nil
}

func (q *qemu) args(b *box, initrd string) []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", fmt.Sprint(min(runtime.NumCPU(), 4)), "-m", fmt.Sprint(b.job.Memory),
		"-kernel", q.kernel.image, "-initrd", initrd,
		// Of no use where every instruction is translated, but they are.
		"-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off",
	}
	// Files are served by another process, which reads and writes the guest's memory.
	args = append(args,
		"-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%dM,share=on", b.job.Memory), "-numa", "node,memdev=memory",
		"-chardev", "socket,id=files,path="+b.path("files"), "-device", "vhost-user-fs-pci,chardev=files,tag=host")
	// Serial lines, in the order of their names in the guest.
	return append(args,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=output,fd=3", "-serial", "chardev:output",
		"-chardev", "socket,id=result,fd=4", "-serial", "chardev:result")
}

// A fileServer is a virtiofsd. There are two by that name: one came with QEMU
// until 8.0, the other is a project of its own.
type fileServer struct {
	path string
	old  bool // the one of QEMU
}

func findFileServer(ctx context.Context) (fileServer, error) {
	for _, path := range []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "virtiofsd"} {
		found, err := exec.LookPath(path)
		if err != nil {
			continue
		}
		// The exit code of --help is not the same for all.
		help, _ := exec.CommandContext(ctx, found, "--help").CombinedOutput()
		return fileServer{path: found, old: !bytes.Contains(help, []byte("--shared-dir"))}, nil
	}
	return fileServer{}, errors.New("no virtiofsd: install the package virtiofsd, or where there is none qemu-system-common")
}

// start returns when the server can be connected to.
func (f fileServer) start(ctx context.Context, b *box) (*process, error) {
	socket := b.path("files")
	args := []string{"--socket-path=" + socket, "--shared-dir=/", "--cache=always", "--sandbox=chroot"}
	if f.old {
		args = []string{"--socket-path=" + socket, "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"}
	}
	var says console
	cmd := exec.Command(f.path, args...)
	cmd.Stdout, cmd.Stderr = &says, &says
	p, err := start(cmd, 0)
	if err != nil {
		return nil, err
	}
	failed := func(err error) (*process, error) {
		return nil, fmt.Errorf("%s: %w: %s", f.path, errors.Join(err, p.end()), strings.TrimSpace(says.tail()))
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := os.Stat(socket); err == nil {
			return p, nil
		}
		select {
		case <-p.done:
			return failed(errors.New("ended at once"))
		case <-ctx.Done():
			return failed(context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return failed(errors.New("makes no socket"))
		}
	}
}
