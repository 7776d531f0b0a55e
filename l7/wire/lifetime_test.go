package wire

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestLifetimeTakenBackTwice has a context that has run out of time ended once more, as defer does. The next one must still learn
// of the client's end.
func TestLifetimeTakenBackTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lifetime
		l.stopFirst = l.clearFirst
		first, cancelFirst := context.WithTimeout(&l, time.Second)
		<-first.Done()
		second, cancelSecond := context.WithTimeout(&l, time.Hour)
		defer cancelSecond()
		cancelFirst()
		l.cancel()
		synctest.Wait()
		if err := second.Err(); err != context.Canceled {
			t.Errorf("the client has gone, and the second attempt ends with %v", err)
		}
	})
}

// TestLifetimeUsedAgain holds that those who have taken back what they asked for keep nobody from using the memory for the next
// request.
func TestLifetimeUsedAgain(t *testing.T) {
	var l lifetime
	l.stopFirst = l.clearFirst
	for range 2 {
		a, b := l.AfterFunc(func() {}), l.AfterFunc(func() {})
		if !b() || !a() || b() || a() {
			t.Fatal("what was asked for can be taken back once")
		}
		if !l.end() {
			t.Fatal("somebody might not have noticed the end")
		}
	}
	l.AfterFunc(func() {})
	if l.end() {
		t.Error("nobody waits for the end, though somebody has asked to")
	}
}
