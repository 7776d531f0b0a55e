package h1_test

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/l7/h1"
)

// TestOnGone has a client leave while its request is being answered.
func TestOnGone(t *testing.T) {
	type heard struct {
		early, second, stopped, late, gone bool
	}
	results := make(chan heard, 1)
	asked := make(chan struct{})
	addr := serve(t, h1.Defaults(), func(_ http.ResponseWriter, r *http.Request) {
		q := h1.Of(r)
		var got heard
		stop, ok := q.OnGone(func() { t.Error("called after it was stopped") })
		got.stopped = ok && stop()
		left := make(chan struct{})
		_, ok = q.OnGone(func() { close(left) })
		_, again := q.OnGone(func() {})
		got.second, got.early = ok && !again, q.Gone()
		close(asked)
		<-left
		now := make(chan struct{})
		q.OnGone(func() { close(now) })
		<-now
		got.late, got.gone = true, q.Gone()
		results <- got
	})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	<-asked
	c.Close()
	select {
	case got := <-results:
		if want := (heard{second: true, stopped: true, late: true, gone: true}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the handler has not heard that the client has gone")
	}
}
