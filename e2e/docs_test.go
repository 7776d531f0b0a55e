//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
	"github.com/fairlead-project/fairlead/service/control/status"
)

// The documents show commands with what they print, in fenced blocks that begin with
//
//	```console run          commands that need neither root nor a node
//	```console run MODE     commands on a node where fairlead runs in that mode
//
// These tests run every line that begins with "$ " with bash, from the root of the
// repository, and compare what it prints. A "…" in a document stands for any text,
// on a line of its own for any lines. Numbers that differ from run to run, as times
// do, need not be equal. With FAIRLEAD_DOCS=update in the environment the output in
// the documents is replaced where it is wrong:
//
//	FAIRLEAD_DOCS=update go test ./e2e -run 'TestDocs'
//	FAIRLEAD_DOCS=update FAIRLEAD_LAB_RUN=TestIPVSDocs go test ./e2e -run TestIPVSLab/uml/e2e

// updateDocs reports whether FAIRLEAD_DOCS=update is in the environment, which also
// gets into the lab.
func updateDocs() bool { return os.Getenv("FAIRLEAD_DOCS") == "update" }

// docRoot is that of the repository, seen from here.
const docRoot = ".."

// A docBlock is a fenced block whose commands are run.
type docBlock struct {
	file  string // of the repository
	line  int    // of the first line after the fence
	mode  string // empty for commands that need no node
	lines []string
}

// docFile is a document, taken apart.
type docFile struct {
	path   string
	lines  []string
	blocks []docBlock
}

// readDocs returns every document with blocks to run.
func readDocs(t *testing.T) []docFile {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(docRoot, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out []docFile
	for _, p := range append(paths, filepath.Join(docRoot, "README.md")) {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		f := parseDoc(p, string(text))
		if len(f.blocks) > 0 {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		t.Fatal("no document has a block to run")
	}
	return out
}

func parseDoc(path, text string) docFile {
	f := docFile{path: path, lines: strings.Split(text, "\n")}
	var open *docBlock
	for i, line := range f.lines {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case open != nil && fence:
			f.blocks = append(f.blocks, *open)
			open = nil
		case open != nil:
			open.lines = append(open.lines, line)
		case fence:
			if words := strings.Fields(info); len(words) >= 2 && words[0] == "console" && words[1] == "run" {
				open = &docBlock{file: path, line: i + 1, mode: strings.Join(words[2:], " ")}
			}
		}
	}
	return f
}

// A docShell runs a command of a document and returns all it writes. Its exit status
// is not looked at: documents show failures, too.
type docShell func(ctx context.Context, command string) string

// play runs the commands of b and returns the block as it is in truth.
func (b docBlock) play(t *testing.T, run docShell) []string {
	t.Helper()
	var out []string
	for i := 0; i < len(b.lines); {
		command, ok := strings.CutPrefix(b.lines[i], "$ ")
		if !ok {
			t.Fatalf("%s:%d: output without a command", b.file, b.line+i+1)
		}
		out = append(out, b.lines[i])
		end := i + 1
		for end < len(b.lines) && !strings.HasPrefix(b.lines[end], "$ ") {
			end++
		}
		want := b.lines[i+1 : end]
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		text := run(ctx, command)
		cancel()
		got := docLines(text)
		if sameDoc(got, want) {
			got = want
		} else if !updateDocs() {
			t.Errorf("%s:%d: %s prints\n%s\nand the document says\n%s", b.file, b.line+i+1, command, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		out = append(out, got...)
		i = end
	}
	return out
}

// docLines returns the lines of an output, but for one that is only there when the
// machine was so slow that an audit came first.
func docLines(text string) []string {
	if text == "" {
		return nil
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "           audited ") })
}

// sameDoc reports whether got is what want says.
func sameDoc(got, want []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if want[0] == "…" {
		return sameRest(got, want[1:])
	}
	return len(got) > 0 && sameLine(got[0], want[0]) && sameDoc(got[1:], want[1:])
}

// sameRest reports whether some end of got is what want says.
func sameRest(got, want []string) bool {
	for i := 0; i <= len(got); i++ {
		if sameDoc(got[i:], want) {
			return true
		}
	}
	return false
}

func sameLine(got, want string) bool {
	got, want = usual(got), usual(want)
	var pattern strings.Builder
	for i, part := range strings.Split(want, "…") {
		if i > 0 {
			pattern.WriteString(".*")
		}
		pattern.WriteString(regexp.QuoteMeta(part))
	}
	ok, err := regexp.MatchString("^"+pattern.String()+"$", got)
	return ok && err == nil
}

// usual replaces what differs from run to run, or from machine to machine.
func usual(line string) string {
	for _, r := range []struct{ old, new string }{
		{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "TIME"},
		{`\b(\d+(\.\d+)?(h|ms|µs|m|s|d))+(\s|;|,|$)`, "AGE${4}"},
		{`\bpid(":)? \d+`, "pid N"},
		{`^  "version": ".*"`, "version"},
		{`^(\w+ +\d+) \d+ `, "${1} SECONDS "}, // of conntrack
		{`\bsize=\d+`, "size=N"},              // of ipvsadm
		{`\biptables \d+\.\d+\.\d+, .*`, "iptables"},
		{`^fairlead +\S+ on `, "fairlead VERSION on "},
		{`schedulers of this kernel: .*`, "schedulers"},
		{`\[\d+:\d+\]`, "[N:N]"},
		{`\s+$`, ""},
	} {
		line = regexp.MustCompile(r.old).ReplaceAllString(line, r.new)
	}
	return regexp.MustCompile(`\b[sd]port=\d+`).ReplaceAllStringFunc(line, func(port string) string {
		if slices.Contains([]string{"80", "443", "8080", "8081", "8443"}, port[len("sport="):]) {
			return port
		}
		return "port=N" // of a caller
	})
}

// write puts the blocks of f in the place of the old ones, from the last to the
// first, so that line numbers stay right.
func (f docFile) write(t *testing.T, played map[int][]string) {
	t.Helper()
	lines := slices.Clone(f.lines)
	for _, b := range slices.Backward(f.blocks) {
		if now, ok := played[b.line]; ok {
			lines = slices.Replace(lines, b.line, b.line+len(b.lines), now...)
		}
	}
	if err := os.WriteFile(f.path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// playDocs runs the blocks of one mode in all documents. Each document gets a shell
// of its own.
func playDocs(t *testing.T, mode string, shell func(t *testing.T) docShell) {
	for _, f := range readDocs(t) {
		var mine []docBlock
		for _, b := range f.blocks {
			if b.mode == mode {
				mine = append(mine, b)
			}
		}
		if len(mine) == 0 {
			continue
		}
		t.Run(filepath.Base(f.path), func(t *testing.T) {
			run := shell(t)
			played := make(map[int][]string)
			for _, b := range mine {
				played[b.line] = b.play(t, run)
				if updateDocs() { // what is written in the lab stays there
					t.Logf("%s:%d:\n%s\n```", b.file, b.line, strings.Join(played[b.line], "\n"))
				}
			}
			if updateDocs() {
				f.write(t, played)
			}
		})
	}
}

// docTools makes a folder with a program fairlead in it, which is the one under test
// and knows where the one on the node listens, and returns the environment that
// finds it.
func docTools(t *testing.T, binary, socket string) []string {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ncase \"$1\" in status|trace) exec %s \"$@\" --status-socket=%s;; esac\nexec %s \"$@\"\n", binary, socket, binary)
	if err := os.WriteFile(filepath.Join(dir, "fairlead"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TZ=UTC")
}

// TestDocs runs the commands of the documents that need no node, and those of the
// modes that need no IPVS.
func TestDocs(t *testing.T) {
	binary := requireWorld(t)
	t.Parallel()
	t.Run("nowhere", func(t *testing.T) {
		playDocs(t, "", func(t *testing.T) docShell {
			socket := filepath.Join(t.TempDir(), "none")
			env := docTools(t, binary, socket)
			return docPaths(func(ctx context.Context, command string) string {
				cmd := exec.CommandContext(ctx, "bash", "-c", command)
				cmd.Dir, cmd.Env = docRoot, env
				text, _ := cmd.CombinedOutput()
				return string(text)
			}, "", socket)
		})
	})
	for _, mode := range []world.Mode{world.IPTables, world.Userspace} {
		t.Run(string(mode), func(t *testing.T) {
			playDocs(t, string(mode), func(t *testing.T) docShell { return docNode(t, mode, "nft") })
		})
	}
}

// TestIPVSDocs does so for IPVS.
func TestIPVSDocs(t *testing.T) {
	requireIPVS(t)
	t.Parallel()
	variant := ipvsVariants(t)[0]
	playDocs(t, string(world.IPVS), func(t *testing.T) docShell { return docNode(t, world.IPVS, variant) })
}

// docNode builds a world in which fairlead has the examples in force on n1, with
// pods that answer, and returns a shell there.
func docNode(t *testing.T, mode world.Mode, variant string) docShell {
	t.Helper()
	b := newBedIn(t, mode, variant)
	for _, port := range []uint16{8080, 8081, 8443} {
		b.serve(t, netns.TCP, port, netns.PodAddr(1, 2), netns.PodAddr(1, 3), netns.PodAddr(2, 2))
	}
	if err := os.CopyFS(b.dir, os.DirFS(filepath.Join(docRoot, "docs", "examples"))); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "status.sock")
	b.startWith(t, "--manifests="+b.dir, "--status-socket="+socket, "--nodeport-addresses=primary",
		"--bind-address="+netns.NodeAddr(1).V4.String(), "--conntrack-max-per-core=0", "--v=0")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.proxy.WaitOutput(ctx, "first sync done"); err != nil {
		t.Fatal(err)
	}
	env := append(docTools(t, b.program.Path, socket), "XTABLES_LOCKFILE="+b.LockFile())
	return docPaths(func(ctx context.Context, command string) string {
		p := b.N1.Command(ctx, "bash", "-c", command)
		p.Cmd.Dir, p.Cmd.Env = docRoot, env
		if err := p.Start(); err != nil {
			t.Error(err)
			return ""
		}
		_ = p.Wait()
		return p.Output()
	}, b.dir, socket)
}

// docPaths lets a shell use the paths of the documents where those of the test are
// meant. An empty folder is none.
func docPaths(run docShell, manifests, socket string) docShell {
	pairs := []string{socket, status.DefaultSocket}
	if manifests != "" {
		pairs = append(pairs, manifests, "/etc/fairlead/manifests")
	}
	here := strings.NewReplacer(pairs...)
	slices.Reverse(pairs)
	there := strings.NewReplacer(pairs...)
	return func(ctx context.Context, command string) string {
		return here.Replace(run(ctx, there.Replace(command)))
	}
}

// TestDocsFindLies holds that a document that is not true is found out.
func TestDocsFindLies(t *testing.T) {
	for _, c := range []struct {
		got, want string
		same      bool
	}{
		{"a\nb", "a\nb", true},
		{"a\nb", "a", false},
		{"a", "a\nb", false},
		{"", "a", false},
		{"a\nb\nc\nd", "a\n…\nd", true},
		{"a\nd", "a\n…\nd", true},
		{"a\nb\nc", "a\n…\nd", false},
		{"a\nb", "…", true},
		{"one two three", "one … three", true},
		{"one two", "one … three", false},
		{"synced 2026-11-22T13:36:33Z, 4s ago; took 15.03ms; 37 added", "synced 2027-01-02T03:04:05Z, 1m10s ago; took 1.1s; 37 added", true},
		{"synced 2026-11-22T13:36:33Z, 4s ago; took 15.03ms; 37 added", "synced 2027-01-02T03:04:05Z, 1m10s ago; took 1.1s; 38 added", false},
		{"TCP  10.96.0.10:80 rr", "TCP  10.96.0.10:80 wrr", false},
		{"tcp      6 117 TIME_WAIT src=10.0.0.1 sport=45678 dport=80", "tcp      6 9 TIME_WAIT src=10.0.0.1 sport=34567 dport=80", true},
		{"tcp      6 117 TIME_WAIT src=10.0.0.1 sport=45678 dport=80", "tcp      6 9 TIME_WAIT src=10.0.0.2 sport=34567 dport=80", false},
		{"tcp      6 117 TIME_WAIT src=10.0.0.1 sport=45678 dport=80", "tcp      6 9 TIME_WAIT src=10.0.0.1 sport=34567 dport=81", false},
	} {
		lines := func(text string) []string {
			if text == "" {
				return nil
			}
			return strings.Split(text, "\n")
		}
		if same := sameDoc(lines(c.got), lines(c.want)); same != c.same {
			t.Errorf("%q printed, %q in the document: same is %v, want %v", c.got, c.want, same, c.same)
		}
	}
}
