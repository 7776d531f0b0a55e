package xt

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Paths says where the tools of one family are.
type Paths struct {
	Iptables string // lists single chains, for Probe
	Save     string
	Restore  string
}

// ExecConfig configures an [Exec].
type ExecConfig struct {
	IPv4, IPv6 Paths         // required for each family that is used
	Legacy     bool          // the tools take the xtables lock; those of the nft variant do not
	Tables     []Table       // what Save reads; nil means nat and filter
	LockWait   time.Duration // how long to wait for the xtables lock; zero means 5 s

	// List lists all chains of a family, perhaps without built-in ones, faster than the
	// tools do, and like iptables-save has no table made. Where no chain is of interest,
	// the tools are not asked for rules; if it fails, they are asked for everything.
	// Optional.
	List func(context.Context, Family) ([]ChainRef, error)

	// OnWait is told how long a call had to wait for the lock of another
	// process, if it had to. Optional.
	OnWait func(time.Duration)
}

// Exec runs the iptables tools. It is safe for concurrent use.
type Exec struct{ cfg ExecConfig }

var _ Runner = (*Exec)(nil)

// NewExec returns a Runner for the tools of cfg. It runs nothing yet.
func NewExec(cfg ExecConfig) *Exec {
	if cfg.LockWait == 0 {
		cfg.LockWait = 5 * time.Second
	}
	if cfg.Tables == nil {
		cfg.Tables = []Table{NAT, Filter}
	}
	return &Exec{cfg: cfg}
}

func (e *Exec) paths(f Family) Paths {
	if f == IPv6 {
		return e.cfg.IPv6
	}
	return e.cfg.IPv4
}

// maxStderr bounds what is kept of the complaints of a tool.
const maxStderr = 16 << 10

// A command is one run of a tool.
type command struct {
	path  string
	args  []string
	write func(io.Writer) error // its input; nil for none
	read  func(io.Reader) error // takes its output; nil for none
}

// run starts c, feeds it, and waits for it: when run returns, the process is
// gone, also when ctx ends first. It returns what the tool said on stderr.
func (c command) run(ctx context.Context) (string, error) {
	if c.path == "" {
		return "", errors.New("no tool configured")
	}
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	var stderr tail
	cmd := exec.CommandContext(own, c.path, c.args...)
	cmd.Env = append(os.Environ(), "LANG=C", "LC_ALL=C")
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second // a module loader the tool started may hold its pipes

	stdin, stdout, err := c.pipes(cmd)
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.path, err)
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start: %w", err)
	}
	if stdin != nil {
		// A tool that stops reading says why in its exit status, not here.
		_ = c.write(stdin)
		_ = stdin.Close()
	}
	var readErr error
	if stdout != nil {
		readErr = c.read(stdout)
	}
	if readErr != nil {
		cancel()
	}
	err = cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the tool was content, and a child of its was slow to go
	}
	return stderr.finish(err, readErr, ctx.Err())
}

// finish decides which of the errors of one run is its reason: it was stopped,
// the tool complained, or what it printed made no sense.
func (t *tail) finish(exit, read, stopped error) (string, error) {
	said := t.String()
	switch {
	case exit != nil && stopped != nil:
		return said, fmt.Errorf("%w (%w)", stopped, exit)
	case read != nil && said == "":
		return "", read
	}
	return said, cmp.Or(exit, read)
}

func (c command) pipes(cmd *exec.Cmd) (stdin io.WriteCloser, stdout io.Reader, err error) {
	if c.write != nil {
		if stdin, err = cmd.StdinPipe(); err != nil {
			return nil, nil, err
		}
	}
	if c.read != nil {
		if stdout, err = cmd.StdoutPipe(); err != nil {
			return nil, nil, err
		}
	}
	return stdin, stdout, nil
}

// A tail keeps the last maxStderr bytes written to it, roughly.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*maxStderr {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-maxStderr:]...)
	}
	return len(p), nil
}

// String returns the text on one line.
func (t *tail) String() string {
	return strings.Join(strings.FieldsFunc(string(t.buf), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// Save implements [Runner] with iptables-save, one table after the other. The
// tools offer no snapshot of several tables.
func (e *Exec) Save(ctx context.Context, f Family) (*State, error) {
	reader := newSaveReader()
	if e.blank(ctx, f) {
		return &reader.state, nil
	}
	for _, t := range e.cfg.Tables {
		c := command{path: e.paths(f).Save, args: []string{"-t", string(t)}, read: reader.read}
		if stderr, err := c.run(ctx); err != nil {
			return nil, fmt.Errorf("save %v table %s: %w", f, t, withStderr(err, stderr))
		}
	}
	return &reader.state, nil
}

func withStderr(err error, stderr string) error {
	if stderr == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, stderr)
}

// Restore implements [Runner] with iptables-restore --noflush.
func (e *Exec) Restore(ctx context.Context, r *Restore) error {
	return e.restore(ctx, r)
}

// Test has iptables-restore --test look at r without committing it. The legacy
// variant asks the kernel's modules; the nft variant hardly more than parses.
func (e *Exec) Test(ctx context.Context, r *Restore) error {
	return e.restore(ctx, r, "--test")
}

func (e *Exec) restore(ctx context.Context, r *Restore, extra ...string) error {
	if r.Empty() {
		return nil
	}
	if err := r.check(); err != nil { // before the tool runs: half of the input must never be taken for the whole
		return &RestoreError{Family: r.Family, Err: err}
	}
	left, err := e.waitForLock(ctx)
	if err != nil {
		return &RestoreError{Family: r.Family, Busy: ctx.Err() == nil, Err: err}
	}
	c := command{
		path: e.paths(r.Family).Restore,
		args: append([]string{"-w", left, "--noflush"}, extra...),
		write: func(w io.Writer) error {
			_, err := r.stream(w)
			return err
		},
	}
	stderr, err := c.run(ctx)
	if err != nil {
		return e.explain(r, stderr, err)
	}
	return nil
}

// exitResource is what the tools call RESOURCE_PROBLEM. In the legacy variant
// it means that the lock was not to be had; the nft variant uses it for
// everything the kernel refuses.
const exitResource = 4

// explain finds the line the tool complains about.
func (e *Exec) explain(r *Restore, stderr string, err error) *RestoreError {
	re := &RestoreError{Family: r.Family, Stderr: stderr, Err: err}
	exit, ok := errors.AsType[*exec.ExitError](err)
	re.Busy = ok && e.cfg.Legacy && exit.ExitCode() == exitResource ||
		strings.Contains(stderr, "xtables lock") ||
		strings.Contains(stderr, "Resource temporarily unavailable")
	if m := regexp.MustCompile(`\bline:? (\d+)`).FindStringSubmatch(stderr); m != nil {
		re.Line, _ = strconv.Atoi(m[1])
	}
	if text, err := r.AppendText(nil); err == nil && re.Line > 0 {
		re.Line, re.Text = findLine(text, re.Line, stderr)
	}
	return re
}

// findLine returns line n of text. The legacy variant blames COMMIT for all the
// kernel refuses, and the nft variant does so for a jump to nowhere: then the
// line that ends in the name the tool quotes is the one, and if there is none,
// the table is named.
func findLine(text []byte, n int, stderr string) (int, string) {
	lines := bytes.Split(text, []byte("\n"))
	if n > len(lines) {
		return n, ""
	}
	if s := string(lines[n-1]); s != "COMMIT" {
		return n, s
	}
	begin := n - 1
	for begin > 0 && lines[begin][0] != '*' {
		begin--
	}
	if m := regexp.MustCompile("[`']([^`' ]+)'").FindStringSubmatch(stderr); m != nil {
		for i := begin; i < n; i++ {
			if bytes.HasSuffix(lines[i], []byte(" "+m[1])) {
				return i + 1, string(lines[i])
			}
		}
	}
	return n, "COMMIT of " + string(lines[begin])
}

// Probe implements [Runner] with iptables -S CHAIN. The legacy tool still
// fetches the whole table from the kernel for it; the nft tool does not.
func (e *Exec) Probe(ctx context.Context, f Family, hooks []Hook, chains map[ChainRef]int) (bool, error) {
	want := map[ChainRef]int{} // number of rules; -1 if any
	for ref, n := range chains {
		want[ref] = n
	}
	for _, h := range hooks {
		want[ChainRef{h.Table, h.Builtin}] = -1
	}
	found := map[Hook]int{}
	for ref, n := range want {
		state, rules, err := e.list(ctx, f, ref)
		if err != nil || state == nil {
			return false, err
		}
		if n >= 0 && rules != n {
			return false, nil
		}
		for h, n := range state.Hooks {
			found[h] += n
		}
	}
	for _, h := range hooks {
		if found[h] != 1 {
			return false, nil
		}
	}
	return true, nil
}

// Fingerprint implements [Runner].
func (e *Exec) Fingerprint(f Family) string {
	text, err := fingerprint(e.cfg.Legacy, f, e.cfg.Tables)
	if err != nil {
		return "" // who wanted to save work must do it
	}
	return text
}

// list reads one chain. A nil State means that it does not exist.
func (e *Exec) list(ctx context.Context, f Family, ref ChainRef) (*State, int, error) {
	left, err := e.waitForLock(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("list %v chain %v: %w", f, ref, err)
	}
	reader := newSaveReader()
	rules := 0
	c := command{
		path: e.paths(f).Iptables,
		args: []string{"-w", left, "-t", string(ref.Table), "-S", ref.Name},
		read: func(r io.Reader) (err error) {
			rules, err = reader.readList(r, ref.Table)
			return err
		},
	}
	stderr, err := c.run(ctx)
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return &reader.state, rules, nil
	case ok && exit.ExitCode() == 1 && ctx.Err() == nil && noChain(stderr):
		return nil, 0, nil
	}
	return nil, 0, fmt.Errorf("list %v chain %v: %w", f, ref, withStderr(err, stderr))
}

// noChain recognises how the variants say that a chain does not exist; that of
// nft 1.8.9 is "chain `X' in table `nat' is incompatible, use 'nft' tool".
func noChain(stderr string) bool {
	return strings.Contains(stderr, "No chain/target/match by that name") ||
		strings.Contains(stderr, "is incompatible, use 'nft' tool")
}
