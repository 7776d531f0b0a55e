// Package golden compares what code makes with files that people read, and rewrites those
// with -update, a flag of every test binary that this package is in.
package golden

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files; read every difference before keeping it")

// Update reports whether golden files are to be rewritten.
func Update() bool { return *update }

// File fails the test unless a file is what it should be. With -update it makes it that,
// with the folders it is in.
func File(t testing.TB, file, want string) {
	t.Helper()
	have, err := os.ReadFile(file)
	if err == nil && string(have) == want {
		return
	}
	switch {
	case Update():
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(want), 0o644)); err != nil {
			t.Fatal(err)
		}
	case errors.Is(err, fs.ErrNotExist):
		t.Errorf("%s is missing: run with -update and read it", file)
	case err != nil:
		t.Error(err)
	default:
		t.Errorf("%s is not what it should be; -update rewrites it (-file +code)\n%s", file, cmp.Diff(strings.Split(string(have), "\n"), strings.Split(want, "\n")))
	}
}
