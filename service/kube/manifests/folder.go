package manifests

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A folder remembers the files of a folder and what of them is in force.
type folder struct {
	dir   string
	kinds Kinds
	err   *Error // the folder itself cannot be read
	files map[string]*file
}

// A file is what is known about one file.
type file struct {
	sum     [sha256.Size]byte // of the content last parsed
	parsed  bool
	objects Objects // in force; a new version has a new Value
	errs    []*Error
}

func newFolder(dir string, kinds Kinds) *folder {
	return &folder{dir: dir, kinds: kinds, files: make(map[string]*file)}
}

// readable reports whether the folder is there.
func (f *folder) readable() error {
	_, err := os.ReadDir(f.dir)
	return err
}

// read brings f up to date, except for files that changed less than settle ago:
// then it returns false, and wants to be called again.
func (f *folder) read(settle time.Duration) bool {
	f.err = nil
	err := f.readable()
	var names []string
	if err == nil {
		names, err = expand(f.dir)
	}
	if err != nil {
		f.err = fileError(f.dir, err) // everything stays as it was
		return true
	}
	maps.DeleteFunc(f.files, func(name string, _ *file) bool { return !slices.Contains(names, name) })
	settled := true
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			if age := time.Since(info.ModTime()); age >= 0 && age < settle {
				settled = false
				continue
			}
		}
		if f.files[name] == nil {
			f.files[name] = &file{}
		}
		f.files[name].read(name, f.kinds)
	}
	return settled
}

// read parses the file again if it has changed. While something in it is wrong,
// no object of it goes away.
func (f *file) read(name string, kinds Kinds) {
	data, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) { // gone since the folder was read: so says the next reading
		return
	}
	if err != nil {
		f.errs, f.parsed = []*Error{fileError(name, err)}, false
		return
	}
	sum := sha256.Sum256(data)
	if f.parsed && sum == f.sum {
		return
	}
	objects, errs := kinds.Parse(name, data)
	old := f.objects
	f.objects, f.errs, f.sum, f.parsed = nil, errs, sum, true
	present := make(map[service.Object]bool, len(objects))
	for _, o := range objects {
		present[o.ID] = true
		f.objects = append(f.objects, o)
	}
	if len(errs) == 0 {
		return
	}
	for _, o := range old {
		if o.Value != nil && !present[o.ID] {
			f.objects = append(f.objects, o)
		}
	}
}

// errors returns what is wrong, in order of files.
func (f *folder) errors() []*Error {
	var out []*Error
	if f.err != nil {
		out = append(out, f.err)
	}
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		out = append(out, f.files[name].errs...)
	}
	return out
}

// objects returns what is in force, no two with the same kind and name, and what
// is wrong with the others. Objects of an unknown kind are among them.
func (f *folder) objects() (Objects, []*Error) {
	var list Objects
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		list = append(list, f.files[name].objects...)
	}
	return unique(list)
}
