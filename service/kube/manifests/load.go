package manifests

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fairlead-project/fairlead/service"
)

// An Error says what is wrong in a file.
type Error struct {
	File  string
	Line  int    // from 1; zero if it concerns the whole file
	Field string // path such as spec.ports[0].port; may be empty
	Msg   string
}

// Error returns "file:line: field: message".
func (e *Error) Error() string {
	s := e.File
	if e.Line > 0 {
		s += fmt.Sprintf(":%d", e.Line)
	}
	if e.Field != "" {
		s += ": " + e.Field
	}
	return s + ": " + e.Msg
}

// An Object is one object in a file.
type Object struct {
	File string
	Line int            // of its first line, from 1
	ID   service.Object // kind, namespace and name
	// Value is a *corev1.Service, *discoveryv1.EndpointSlice, *corev1.Node or what
	// Kind.New returns; nil for an object of another kind, which nothing can be
	// done with.
	Value any
}

// Objects are the objects of some files, in order of file and line.
type Objects []Object

// Load reads files, and the files of folders. It returns every object that can
// be used, no two with the same kind and name, and everything that is wrong with
// the others.
func Load(paths ...string) (Objects, []*Error) { return Kinds(nil).Load(paths...) }

// Load is [Load] with more kinds.
func (k Kinds) Load(paths ...string) (Objects, []*Error) {
	var all Objects
	var errs []*Error
	for _, path := range paths {
		files, err := expand(path)
		if err != nil {
			errs = append(errs, fileError(path, err))
		}
		for _, file := range files {
			data, err := readFile(file)
			if err != nil {
				errs = append(errs, fileError(file, err))
				continue
			}
			objects, wrong := k.Parse(file, data)
			all = append(all, objects...)
			errs = append(errs, wrong...)
		}
	}
	all, doubles := unique(all)
	return all, append(errs, doubles...)
}

// readFile is os.ReadFile for regular files, and links to them. Reading a named
// pipe would wait for somebody to write to it.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	return os.ReadFile(name)
}

// fileError returns err about a whole file without saying its name twice.
func fileError(file string, err error) *Error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = fmt.Errorf("%s: %w", pe.Op, pe.Err)
	}
	return &Error{File: file, Msg: err.Error()}
}

// expand returns the files of a folder, sorted, or path itself.
func expand(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		if info, statErr := os.Stat(path); statErr == nil && !info.IsDir() {
			return []string{path}, nil
		}
		return nil, err
	}
	var files []string
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, ".") && isManifest(name) && !isFolder(path, e) {
			files = append(files, filepath.Join(path, name))
		}
	}
	return files, nil
}

func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// isFolder reports whether e is a folder, or leads to one: the files of a
// ConfigMap volume are symbolic links.
func isFolder(dir string, e fs.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir()
	}
	info, err := os.Stat(filepath.Join(dir, e.Name()))
	return err == nil && info.IsDir()
}

// unique returns objects without those that were there before.
func unique(objects Objects) (Objects, []*Error) {
	first := make(map[service.Object]Object, len(objects))
	var errs []*Error
	objects = slices.DeleteFunc(objects, func(o Object) bool {
		old, ok := first[o.ID]
		if ok && o.Value != nil {
			errs = append(errs, &Error{File: o.File, Line: o.Line, Field: "metadata.name", Msg: fmt.Sprintf(
				"%s %s is already in %s, line %d; this one is not used", o.ID.Kind, o.ID, old.File, old.Line)})
			return true
		}
		if o.Value != nil {
			first[o.ID] = o
		}
		return false
	})
	return objects, errs
}
