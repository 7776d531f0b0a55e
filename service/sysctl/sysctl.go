// Package sysctl sets the kernel parameters a service proxy needs: the size and
// the timeouts of the connection-tracking table, route_localnet for node ports at
// 127.0.0.1, and what IPVS needs. The first are set once, at start, for an
// operator may change them later; those without which Services do not work are
// set again when something else has changed them.
//
// A parameter is written only if its value differs, so that a process without
// the right to write, on a machine somebody else has set up, starts all the
// same.
//
// # Network namespaces
//
// nf_conntrack_max and the hash table behind it belong to the machine, not to a
// network namespace. In a namespace other than the first the kernel shows the
// former without write permission, or not at all, and refuses writes to the
// latter. That is where tests, nested containers and nodes made of containers
// live, and the owner of the machine has to size the table there: such a
// parameter is reported as skipped and the start goes on. In the first
// namespace the same trouble comes from a missing module or a read-only /proc
// and is an error, as it is for kube-proxy. The two are told apart by the file
// itself, because a container cannot see which namespace the first one is.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A Setting is a kernel parameter and the value it should have.
type Setting struct {
	Path string // absolute, such as /proc/sys/net/ipv4/ip_forward
	Want string

	// AtLeast leaves a larger number alone; Want must be a number.
	AtLeast bool
	// Machine says that the parameter belongs to the whole machine, so that a
	// network namespace may not be allowed to write it. See the package comment.
	Machine bool
	// Optional leaves a parameter alone that the kernel does not have, or does not
	// let this network namespace write: its value only makes things better.
	Optional bool
}

// Apply makes each setting true, writing only where the value differs. Root is
// put in front of every path; it is "/" outside tests. A failure does not stop
// the settings after it: err joins them all, each naming the file and the value.
// Skipped names the machine-wide settings that this network namespace may not
// make, for a warning.
func Apply(root string, settings []Setting) (skipped []error, err error) {
	var errs []error
	for _, s := range settings {
		_, e := s.apply(root)
		switch {
		case e == nil:
		case s.Machine && s.outOfReach(root, e):
			skipped = append(skipped, e)
		default:
			errs = append(errs, e)
		}
	}
	return skipped, errors.Join(errs...)
}

// Reassert makes each setting true again that no longer is, and reports whether
// there was one. Err is as that of Apply; machine-wide settings out of reach are
// not in it.
func Reassert(root string, settings []Setting) (changed bool, err error) {
	var errs []error
	for _, s := range settings {
		wrote, e := s.apply(root)
		changed = changed || wrote
		if e != nil && !(s.Machine && s.outOfReach(root, e)) {
			errs = append(errs, e)
		}
	}
	return changed, errors.Join(errs...)
}

// Read returns the value of the parameter at path, without the final newline.
func Read(root, path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return "", fmt.Errorf("read kernel parameter: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// apply makes s true and reports whether it had to write.
func (s Setting) apply(root string) (wrote bool, err error) {
	have, err := Read(root, s.Path)
	if err != nil {
		if s.Optional && errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("%w (wanted %s)", err, s.Want)
	}
	ok, err := s.holds(have)
	if err != nil || ok {
		return false, err
	}
	err = write(filepath.Join(root, s.Path), s.Want)
	switch {
	case err == nil:
		return true, nil
	case s.Optional && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)):
		return false, nil
	}
	return false, fmt.Errorf("set kernel parameter to %s (it is %s): %w", s.Want, have, err)
}

// write does not use os.WriteFile, which would create a missing file.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	return errors.Join(err, f.Close())
}

// holds reports whether the value have needs no write.
func (s Setting) holds(have string) (bool, error) {
	if !s.AtLeast {
		return have == s.Want, nil
	}
	h, err := strconv.Atoi(have)
	if err != nil {
		return false, fmt.Errorf("kernel parameter %s: %w", s.Path, err)
	}
	w, err := strconv.Atoi(s.Want)
	if err != nil {
		return false, fmt.Errorf("value wanted for %s: %w", s.Path, err)
	}
	return h >= w, nil
}

// outOfReach reports whether err, met on s, means that the kernel keeps s from
// this network namespace.
func (s Setting) outOfReach(root string, err error) bool {
	path := filepath.Join(root, s.Path)
	if strings.HasPrefix(s.Path, sysfs) {
		// The hash size only makes lookups faster, and container engines like to
		// mount /sys read-only: no reason to stay down.
		return errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EOPNOTSUPP) ||
			errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// Hidden, if its neighbours are there; else the module is not loaded.
		near, globErr := filepath.Glob(filepath.Join(filepath.Dir(path), "nf_conntrack_*"))
		return globErr == nil && len(near) > 0
	}
	info, statErr := os.Stat(path)
	refused := errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) // by a container engine, before the kernel could
	return statErr == nil && refused && info.Mode().Perm()&0o222 == 0
}
