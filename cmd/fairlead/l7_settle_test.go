package main

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
)

func TestSettler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got atomic.Pointer[[]service.Problem]
		s := newSettler(2*time.Second, func(list []service.Problem) { got.Store(&list) })
		passing, lasting := service.Problem{Reason: "Passing"}, service.Problem{Reason: "Lasting"}
		see := func(what string, want ...service.Problem) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, *got.Load()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		s.all([]service.Problem{passing, lasting})
		see("at once")
		time.Sleep(time.Second)
		s.all([]service.Problem{lasting})
		see("after a second")
		time.Sleep(1100 * time.Millisecond)
		see("after two", lasting)
		s.all([]service.Problem{lasting, passing})
		see("something new", lasting)
		time.Sleep(2100 * time.Millisecond)
		see("that has lasted", lasting, passing)
		s.all(nil)
		see("all is well")
	})
}
