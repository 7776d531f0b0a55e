package main

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// A stubborn is a Dataplane whose Sync fails as it is told.
type stubborn struct {
	service.Dataplane
	err error
}

func (s *stubborn) Sync(context.Context, *service.Snapshot) (service.Report, error) {
	return service.Report{Added: 7}, s.err
}

func TestFrugal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		given, plane := 0, &stubborn{err: errors.New("no")}
		f := newFrugal(plane, nil, nil)
		f.give = func() { given++ }
		step := func(what string, pause time.Duration, want int) {
			t.Helper()
			if report, err := f.Sync(t.Context(), nil); report.Added != 7 || !errors.Is(err, plane.err) {
				t.Errorf("%s: report %+v, error %v; want those of the plane", what, report, err)
			}
			time.Sleep(pause)
			synctest.Wait()
			if given != want {
				t.Errorf("%s: given back %d times, want %d", what, given, want)
			}
		}
		step("a Sync that fails", time.Hour, 0)
		plane.err = nil
		step("the first Sync", time.Millisecond, 1)
		for range 100 {
			step("a change after another", quietFor-1, 1)
		}
		step("the last change", time.Hour, 2)
		step("one more", time.Hour, 3)
	})
}

// TestForgetProgram would not come back if something were gone that is needed.
func TestForgetProgram(t *testing.T) {
	for range 3 {
		if err := forgetProgram(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConstantPart(t *testing.T) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		line     string
		from, to uintptr
	}{
		{"00400000-01d47000 r-xp 00000000 fe:00 123                              " + exe, 0x400000, 0x1d47000},
		{"01d47000-0393b000 r--p 01947000 fe:00 123                              " + exe, 0x1d47000, 0x393b000},
		{"0393b000-03a48000 rw-p 0353b000 fe:00 123                              " + exe, 0, 0},
		{"00400000-01d47000 r-xp 00000000 fe:00 124                              /lib/libc.so.6", 0, 0},
		{"19341d400000-193422000000 rw-p 00000000 00:00 0 ", 0, 0},
		{"7fcb61fdf000-7fcb61fe1000 r-xp 00000000 00:00 0                        [vdso]", 0, 0},
		{"x-y r-xp 00000000 fe:00 123 " + exe, 0, 0},
		{"", 0, 0},
	} {
		from, to, ok := constantPart(tc.line, exe)
		if want := tc.to != 0; ok != want || ok && (from != tc.from || to != tc.to) {
			t.Errorf("%q: %#x-%#x, %v; want %#x-%#x, %v", tc.line, from, to, ok, tc.from, tc.to, want)
		}
	}
}
