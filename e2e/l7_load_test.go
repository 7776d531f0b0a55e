//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An l7Load asks again and again, and remembers what went wrong.
type l7Load struct {
	stop    context.CancelFunc
	group   sync.WaitGroup
	good    atomic.Int64
	bad     atomic.Int64
	longest atomic.Int64 // nanoseconds

	mu     sync.Mutex
	errors map[string]int
	failed []time.Time
	by     map[string]int
}

// startLoad runs clients until finish: n of each kind. Kept ones use a connection for many requests, the others one for
// each. Every second request has a body that must not be sent twice.
func (p *l7Proxy) startLoad(t *testing.T, host string, n int) *l7Load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &l7Load{stop: stop, errors: make(map[string]int), by: make(map[string]int)}
	for _, kind := range []struct {
		name, scheme string
		client       *http.Client
	}{
		{"http/1.1 kept", "http", p.client()},
		{"http/1.1 fresh", "http", fresh(p.client())},
		{"tls kept", "https", p.client()},
		{"h2 kept", "https", p.client((*http.Protocols).SetHTTP2)},
	} {
		for range n {
			l.group.Go(func() { l.run(ctx, kind.name, kind.client, kind.scheme+"://"+host+"/load") })
		}
	}
	t.Cleanup(func() { stop(); l.group.Wait() })
	return l
}

// startFresh runs n clients that take a new connection for each request.
func (p *l7Proxy) startFresh(t *testing.T, url string, n int) *l7Load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &l7Load{stop: stop, errors: make(map[string]int), by: make(map[string]int)}
	client := fresh(p.client())
	for range n {
		l.group.Go(func() { l.run(ctx, "fresh", client, url) })
	}
	t.Cleanup(func() { stop(); l.group.Wait() })
	return l
}

// fresh makes a client take a new connection for each request.
func fresh(c *http.Client) *http.Client {
	c.Transport.(*http.Transport).DisableKeepAlives = true
	return c
}

func (l *l7Load) run(ctx context.Context, name string, client *http.Client, url string) {
	for i := 0; ctx.Err() == nil; i++ {
		begun := time.Now()
		by, err := l.once(client, url, i%2 == 1)
		took := time.Since(begun)
		for old := l.longest.Load(); int64(took) > old && !l.longest.CompareAndSwap(old, int64(took)); old = l.longest.Load() {
		}
		if err == nil {
			l.good.Add(1)
		} else {
			l.bad.Add(1)
		}
		l.mu.Lock()
		if err != nil {
			l.errors[name+": "+err.Error()]++
			l.failed = append(l.failed, time.Now())
		} else {
			l.by[by]++
		}
		l.mu.Unlock()
		time.Sleep(2 * time.Millisecond) // leave some CPU to the others
	}
}

// once makes one request, which is never given up in the middle.
func (l *l7Load) once(client *http.Client, url string, post bool) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	method, body := http.MethodGet, []byte(nil)
	if post {
		method, body = http.MethodPost, bytes.Repeat([]byte("b"), 100)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := client.Do(r)
	if err != nil {
		return "", errors.Unwrap(err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp.Header.Get("X-Backend"), err
}

// finish ends the load and holds that there was some and that all of it went well, but for as many as may go wrong.
func (l *l7Load) finish(t *testing.T, least, mayFail int64) {
	t.Helper()
	l.stop()
	l.group.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%d good requests, %d bad ones, the longest took %v, by %v", l.good.Load(), l.bad.Load(), time.Duration(l.longest.Load()).Round(time.Millisecond), l.by)
	if l.bad.Load() > mayFail {
		t.Errorf("%d requests have failed, want %d at most: %v", l.bad.Load(), mayFail, l.errors)
	} else if l.bad.Load() > 0 {
		t.Logf("failed: %v", l.errors)
	}
	if l.good.Load() < least {
		t.Errorf("only %d requests, want %d: this shows nothing", l.good.Load(), least)
	}
}
