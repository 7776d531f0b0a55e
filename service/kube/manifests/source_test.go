package manifests

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// A sink owns a Store and says what is in it.
type sink struct {
	mu       sync.Mutex
	store    *service.Store
	synced   int
	nodes    []string
	problems map[service.Object]bool
	log      bytes.Buffer
	poke     chan struct{}
}

func newSink() *sink {
	return &sink{store: service.NewStore(), problems: make(map[service.Object]bool), poke: make(chan struct{}, 1)}
}

func (s *sink) change(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

func (s *sink) Update(ctx context.Context, change func(*service.Store) bool) error {
	s.change(func() { change(s.store) })
	return ctx.Err()
}

func (s *sink) Synced() { s.change(func() { s.synced++ }) }

func (s *sink) Write(p []byte) (int, error) {
	s.change(func() { s.log.Write(p) })
	return len(p), nil
}

func (s *sink) state() string {
	var out []string
	for p := range s.store.Snapshot().Ports.All() {
		line := p.ID.String()
		for _, f := range p.Frontends {
			line += " " + f.Addr.String()
		}
		for _, e := range p.Cluster {
			line += " " + e.Addr.String()
		}
		out = append(out, line)
	}
	for o := range s.problems {
		out = append(out, "problem "+o.Kind+" "+o.String())
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// wait waits until f, called with the lock held, returns want.
func (s *sink) wait(t *testing.T, what string, f func() string, want string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		got := f()
		s.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-s.poke:
		case <-deadline:
			t.Fatalf("%s (-got +want):\n%s\nlog:\n%s", what, cmp.Diff(got, want), s.log.String())
		}
	}
}

func (s *sink) waitState(t *testing.T, want ...string) {
	t.Helper()
	s.wait(t, "state", s.state, strings.Join(want, "\n"))
}

// waitLog waits until the log has text n times.
func (s *sink) waitLog(t *testing.T, text string, n int) {
	t.Helper()
	s.wait(t, text, func() string { return fmt.Sprint(strings.Count(s.log.String(), text)) }, fmt.Sprint(n))
}

func (s *sink) start(t *testing.T, dir string) {
	t.Helper()
	src := &Source{
		Dir: dir, Sink: s, Log: slog.New(slog.NewTextHandler(s, nil)), NodeName: "n1",
		Node: func(_ context.Context, n *kube.NodeInfo) {
			s.change(func() {
				if n == nil {
					n = &kube.NodeInfo{Zone: "none"}
				}
				s.nodes = append(s.nodes, n.Zone)
			})
		},
		Report: func(o service.Object, problems []service.Problem) {
			s.change(func() {
				delete(s.problems, o)
				if problems != nil {
					s.problems[o] = true
				}
			})
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	s.wait(t, "synced", func() string { return fmt.Sprint(s.synced) }, "1")
}

func replace(t *testing.T, path, content string) {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

const (
	webPort  = "shop/web:http/tcp/IPv4 10.96.0.10:80 10.244.1.2:8080"
	webEmpty = "shop/web:http/tcp/IPv4 10.96.0.10:80"
)

func TestSource(t *testing.T) {
	dir, s := t.TempDir(), newSink()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	n1 := "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: %s}}\n"
	other := "---\napiVersion: v1\nkind: ConfigMap\n"
	replace(t, a, webYAML+other+other+fmt.Sprintf(n1, "a")+strings.Replace(fmt.Sprintf(n1, "x"), "n1", "n2", 1))
	replace(t, b, sliceYAML)
	s.start(t, dir)
	s.waitState(t, webPort)
	s.waitLog(t, "not used", 1)

	t.Log("a file that is wrong keeps its objects in force, and takes new ones")
	db := strings.NewReplacer("web", "db", "10.96.0.10", "10.96.0.11").Replace(webYAML)
	replace(t, a, webYAML+"  foo: {}\n---\n"+db)
	s.waitState(t, "shop/db:http/tcp/IPv4 10.96.0.11:80", webPort)
	s.waitLog(t, `line=13 field=spec.foo err="unknown field"`, 1)
	replace(t, a, strings.Replace(db, "port: 80", "port: [", 1))
	s.waitLog(t, "level=WARN", 2)
	s.waitState(t, "shop/db:http/tcp/IPv4 10.96.0.11:80", webPort)

	t.Log("a file that is right speaks for all its objects")
	replace(t, a, webYAML+fmt.Sprintf(n1, "b"))
	s.waitState(t, webPort)
	s.waitLog(t, "can be read again", 1)
	replace(t, b, "# nothing\n")
	s.waitState(t, webEmpty)
	replace(t, b, sliceYAML)
	s.waitState(t, webPort)

	t.Log("of two equal names the first file counts")
	c := filepath.Join(dir, "c.yaml")
	replace(t, c, strings.Replace(webYAML, "10.96.0.10", "10.96.0.99", 1))
	s.waitLog(t, "already in", 1)
	s.waitState(t, webPort)
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	s.waitState(t, strings.Replace(webPort, "10.96.0.10", "10.96.0.99", 1))
	s.wait(t, "zones", func() string { return strings.Join(s.nodes, " ") }, "a b none")

	t.Log("problems come and go")
	replace(t, c, strings.Replace(webYAML, "10.96.0.10", "127.0.0.1", 1))
	s.waitState(t, "problem Service shop/web")
	replace(t, c, webYAML)
	s.waitState(t, webPort)
}

// TestConfigMapVolume replaces files as the kubelet does: by exchanging the
// folder that a symbolic link leads to.
func TestConfigMapVolume(t *testing.T) {
	dir, s := t.TempDir(), newSink()
	write := func(version, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, version, "all.yaml"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("..v1", webYAML)
	link("..v1", "..data")
	link("..data/all.yaml", "all.yaml")
	s.start(t, dir)
	s.waitState(t, webEmpty)
	write("..v2", webYAML+"---\n"+sliceYAML)
	link("..v2", "..tmp")
	if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	s.waitState(t, webPort)
}

func TestFolderGoesAndComesBack(t *testing.T) {
	parent, s := t.TempDir(), newSink()
	dir, away := filepath.Join(parent, "d"), filepath.Join(parent, "away")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	replace(t, filepath.Join(dir, "a.yaml"), webYAML)
	f := newFolder(dir, nil)
	f.read(0)
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	f.read(0)
	if objects, _ := f.objects(); len(objects) != 1 || len(f.errors()) != 1 {
		t.Errorf("objects %v, errors %v without the folder; want the object and an error", lines(objects), f.errors())
	}
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	f.read(0)
	if objects, _ := f.objects(); len(objects) != 1 || len(f.errors()) != 0 {
		t.Errorf("objects %v, errors %v with the folder back; want only the object", lines(objects), f.errors())
	}
	src := &Source{Dir: away, Sink: s, Log: slog.New(slog.DiscardHandler)}
	if err := src.Run(t.Context()); err == nil || !strings.Contains(err.Error(), away) {
		t.Errorf("Run without a folder: %v, want an error that names it", err)
	}
}

// TestFreshFileWaits requires that a file somebody is writing is left alone.
func TestFreshFileWaits(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	replace(t, path, webYAML)
	f := newFolder(dir, nil)
	f.read(0)
	if err := os.WriteFile(path, nil, 0o600); err != nil { // the first half of writing in place
		t.Fatal(err)
	}
	if settled := f.read(time.Hour); settled {
		t.Error("read() = true just after a change, want false")
	}
	if objects, _ := f.objects(); len(objects) != 1 {
		t.Errorf("objects %v while the file is being written, want the old one", lines(objects))
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if settled := f.read(time.Hour); !settled {
		t.Error("read() = false long after the change, want true")
	}
	if objects, _ := f.objects(); len(objects) != 0 {
		t.Errorf("objects %v of an empty file, want none", lines(objects))
	}
}
