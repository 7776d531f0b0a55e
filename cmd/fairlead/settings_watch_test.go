package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A mounted is a ConfigMap as kubelet mounts it: files are links to a folder behind a link, which is swapped.
type mounted struct {
	dir string
	n   int
}

// swap gives the file config.conf other contents, as kubelet does.
func (m *mounted) swap(t *testing.T, text string) {
	t.Helper()
	m.n++
	folder := "..v" + string(rune('0'+m.n))
	if err := os.Mkdir(filepath.Join(m.dir, folder), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(m.dir, folder, "config.conf"), text)
	next := filepath.Join(m.dir, "..data_tmp")
	if err := os.Symlink(folder, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(m.dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if m.n == 1 {
		if err := os.Symlink(filepath.Join("..data", "config.conf"), filepath.Join(m.dir, "config.conf")); err != nil {
			t.Fatal(err)
		}
	}
}

// A heard is a log handler that hands out messages.
type heard struct {
	slog.Handler
	to chan string
}

func (l heard) Handle(ctx context.Context, r slog.Record) error {
	l.to <- r.Message
	return l.Handler.Handle(ctx, r)
}

// TestWatchSettings changes a mounted ConfigMap: to the same, to something wrong, back, and to something else.
func TestWatchSettings(t *testing.T) {
	const head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.244.0.0/16\n"
	m := &mounted{dir: t.TempDir()}
	m.swap(t, head)
	args := []string{"--config=" + filepath.Join(m.dir, "config.conf"), "--manifests=" + examples, "--hostname-override=n1"}
	c := command{out: t.Output(), err: t.Output()}
	again := func() (*loader, error) { return c.again(args) }
	l, err := again()
	if err != nil {
		t.Fatal(err)
	}
	cfgs, err := l.flags.configs()
	if err != nil {
		t.Fatal(err)
	}
	log := heard{slog.NewTextHandler(t.Output(), nil), make(chan string, 16)}
	p := newProcess(l.flags, cfgs[0], slog.New(log))
	p.reporter = newReporter(p.log, nil)
	p.settle(l, cfgs, again)
	ended := make(chan error, 1)
	go func() { ended <- p.watchSettings(t.Context()) }()
	hear := func(want string) {
		t.Helper()
		select {
		case got := <-log.to:
			if !strings.Contains(got, want) {
				t.Fatalf("heard %q, want %q in it", got, want)
			}
		case err := <-ended:
			t.Fatalf("ended with %v, want to hear %q", err, want)
		case <-time.After(time.Minute):
			t.Fatalf("heard nothing for a minute, want %q", want)
		}
	}
	m.swap(t, head+"# a comment changes nothing\nbindAddress: 0.0.0.0\n")
	m.swap(t, head+"conntrack: {min: -1}\n")
	hear("is wrong; what is in force stays")
	m.swap(t, head+"# right again\n")
	hear("valid again")
	m.swap(t, head+"conntrack: {min: 7}\n")
	select {
	case err := <-ended:
		if !errors.Is(err, errSettingsChanged) {
			t.Errorf("ended with %v, want %v", err, errSettingsChanged)
		}
	case got := <-log.to:
		t.Errorf("heard %q, want an end", got)
	case <-time.After(time.Minute):
		t.Error("a change was not noticed within a minute")
	}
}

// TestWatchSettingsEnds makes sure that watching ends with its context.
func TestWatchSettingsEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	nothing := func() error { return nil }
	if err := eachChange(ctx, []string{filepath.Join(t.TempDir(), "x")}, func(err error) { t.Error(err) }, nothing); err != nil {
		t.Error(err)
	}
	var trouble error
	if err := eachChange(ctx, []string{filepath.Join(t.TempDir(), "no", "x")}, func(err error) { trouble = err }, nothing); err != nil || trouble == nil {
		t.Errorf("in no folder: %v, and told %v", err, trouble)
	}
}
