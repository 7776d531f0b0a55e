package wire

import (
	"net/http"
	"sync/atomic"
	"time"
)

// A clock has the Date field of answers, made once a second.
type clock struct{ now atomic.Pointer[stamp] }

type stamp struct {
	second int64
	text   string
}

// date returns t as it stands in a Date field.
func (c *clock) date(t time.Time) string {
	if s := c.now.Load(); s != nil && s.second == t.Unix() {
		return s.text
	}
	s := &stamp{second: t.Unix(), text: t.UTC().Format(http.TimeFormat)}
	c.now.Store(s)
	return s.text
}
