//go:build linux

package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// writeInitramfs writes the file system that a kernel begins with: busybox, the
// modules it takes to see the host, and where on the host the job is.
func (k *bootable) writeInitramfs(ctx context.Context, path string, b *box) error {
	var image bytes.Buffer
	a := &archive{w: &image}
	for _, dir := range []string{"bin", "modules"} {
		a.add(dir, 0o040755, nil)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := a.addFile("bin/busybox", busybox); err != nil {
		return err
	}
	if err := a.addFile("init", b.path("initramfs.sh")); err != nil {
		return err
	}
	if err := a.addFile("job", b.path("vars")); err != nil {
		return err
	}
	modules, err := k.loadOrder(ctx, "virtio_pci", "virtiofs", "overlay")
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, m := range modules {
		name, text, err := decompress(ctx, m)
		if err != nil {
			return err
		}
		a.add("modules/"+name, 0o100644, text)
		list.WriteString(name + "\n")
	}
	a.add("modules/list", 0o100644, []byte(list.String()))
	a.end()
	return os.WriteFile(path, image.Bytes(), 0o644)
}

// loadOrder returns the files of modules and of what they need, in the order in
// which they can be loaded. Those that are part of the kernel have none.
func (k *bootable) loadOrder(ctx context.Context, modules ...string) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	for _, m := range modules {
		out, err := output(ctx, "modprobe", "-d", k.tree, "-S", k.release, "--show-depends", m)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			verb, file, _ := strings.Cut(strings.TrimSpace(line), " ")
			file, _, _ = strings.Cut(file, " ")
			if verb == "insmod" && !seen[file] {
				seen[file] = true
				files = append(files, file)
			}
		}
	}
	return files, nil
}

// decompress reads a module, whatever it is compressed with.
func decompress(ctx context.Context, path string) (name string, text []byte, err error) {
	name = filepath.Base(path)
	for suffix, program := range map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"} {
		if plain, ok := strings.CutSuffix(name, suffix); ok {
			out, err := output(ctx, program, "-dc", path)
			return plain, []byte(out), err
		}
	}
	text, err = os.ReadFile(path)
	return name, text, err
}

// An archive is a cpio archive as the kernel reads it, in the format "newc":
// https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
type archive struct {
	w       *bytes.Buffer
	entries int
}

func (a *archive) addFile(name, path string) error {
	text, err := os.ReadFile(path)
	if err == nil {
		a.add(name, 0o100755, text)
	}
	return err
}

func (a *archive) add(name string, mode uint32, text []byte) {
	a.entries++
	io.WriteString(a.w, "070701")
	// inode, mode, uid, gid, links, mtime, size, device of the file, device it stands for, length of the name, checksum
	for _, field := range []uint32{uint32(a.entries), mode, 0, 0, 1, 0, uint32(len(text)), 0, 0, 0, 0, uint32(len(name) + 1), 0} {
		fmt.Fprintf(a.w, "%08x", field)
	}
	io.WriteString(a.w, name+"\x00")
	a.pad()
	a.w.Write(text)
	a.pad()
}

func (a *archive) pad() {
	for a.w.Len()%4 != 0 {
		a.w.WriteByte(0)
	}
}

func (a *archive) end() { a.add("TRAILER!!!", 0, nil) }
