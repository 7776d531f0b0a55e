//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// A browser is a Chromium with one page open, steered by the DevTools protocol.
type browser struct {
	t    *testing.T
	conn *websocket.Conn
	page string // the session of the page
	last int
}

// openBrowser starts Chromium and returns when the page is there. It ends with the test.
func openBrowser(t *testing.T, path, url string) *browser {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	cmd := exec.CommandContext(ctx, path, chromiumFlags(t, "--remote-debugging-port=0", "about:blank")...)
	said := &devTools{url: make(chan string, 1)}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	var address string
	select {
	case address = <-said.url:
	case <-time.After(time.Minute):
		t.Fatal("Chromium does not listen")
	}
	conn, resp, err := websocket.DefaultDialer.DialContext(ctx, address, nil)
	if err != nil {
		t.Fatalf("connect to Chromium: %v", err)
	}
	_ = resp.Body.Close()
	t.Cleanup(func() { _ = conn.Close() })
	b := &browser{t: t, conn: conn}
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var session struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	b.page = session.SessionID
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	b.loaded(url + "/")
	return b
}

// devTools is what Chromium says on its standard error, in which it names the address that it listens on.
type devTools struct {
	said []byte
	url  chan string // gets the address once
	done bool
}

func (d *devTools) Write(b []byte) (int, error) {
	if d.done {
		return len(b), nil
	}
	d.said = append(d.said, b...)
	if _, rest, ok := strings.Cut(string(d.said), "DevTools listening on "); ok {
		if url, _, whole := strings.Cut(rest, "\n"); whole {
			d.url <- strings.TrimSpace(url)
			d.done, d.said = true, nil
		}
	}
	return len(b), nil
}

// call asks the browser to do something and reads the answer into result. Events that come before it are left out.
func (b *browser) call(method string, params map[string]any, result any) {
	b.t.Helper()
	b.last++
	if err := b.conn.WriteJSON(struct {
		ID        int            `json:"id"`
		Method    string         `json:"method"`
		Params    map[string]any `json:"params"`
		SessionID string         `json:"sessionId,omitempty"`
	}{b.last, method, params, b.page}); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	_ = b.conn.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		var answer struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := b.conn.ReadJSON(&answer); err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		if answer.ID != b.last {
			continue
		}
		if answer.Error != nil {
			b.t.Fatalf("%s: %s", method, answer.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
		return
	}
}

// try returns the string that a script comes to, or what is wrong with it.
func (b *browser) try(script string) (string, error) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Text string }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		return "", fmt.Errorf("%s: %s", script, r.ExceptionDetails.Text)
	}
	return fmt.Sprint(r.Result.Value), nil
}

// eval is try for scripts that must work.
func (b *browser) eval(script string) string {
	b.t.Helper()
	s, err := b.try(script)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// insert types text into what has the focus, in place of what is selected.
func (b *browser) insert(text string) {
	b.t.Helper()
	b.call("Input.insertText", map[string]any{"text": text}, nil)
}

// loaded returns when the page of that URL is there.
func (b *browser) loaded(url string) {
	b.t.Helper()
	var at string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if at, _ = b.try(`document.readyState + " " + location.href`); at == "complete "+url {
			return
		}
	}
	b.t.Fatalf("the browser is at %q, want %s", at, url)
}
