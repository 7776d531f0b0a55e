package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-project/fairlead/iptables/xt"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/control/status"
)

// askStatus asks for the status until it satisfies ok.
func askStatus(t *testing.T, socket, what string, ok func(code int, d *status.Document) bool) status.Document {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		var d status.Document
		code, out, errs := invoke("status", "-o", "json", "--status-socket="+socket)
		if out != "" {
			if err := json.Unmarshal([]byte(out), &d); err != nil {
				t.Fatalf("%v in\n%s", err, out)
			}
		}
		if ok(code, &d) {
			return d
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within half a minute; exit status %d, errors %q, output:\n%s", what, code, errs, out)
		}
		time.Sleep(20 * time.Millisecond) // there is nothing to wait for but the answer
	}
}

// inForce waits for the first revision.
func inForce(t *testing.T, socket string) status.Document {
	t.Helper()
	return askStatus(t, socket, "the examples are in force", func(code int, d *status.Document) bool { return code == 0 && d.Revision > 0 })
}

func TestStatusOfARun(t *testing.T) {
	dir, socket := t.TempDir(), filepath.Join(t.TempDir(), "s", "status.sock")
	if err := os.CopyFS(dir, os.DirFS(examples)); err != nil {
		t.Fatal(err)
	}
	r := startRun(t, dir, [service.NumFamilies]error{service.IPv6: errors.New("no ip6tables")}, "--status-socket="+socket)
	d := inForce(t, socket)
	if d.Node != "n1" || d.Mode != "iptables" || d.Source != "manifests in "+dir || d.PID != os.Getpid() || !d.Eligible {
		t.Errorf("got %+v", d)
	}
	if !slices.Equal(d.Families, []string{"IPv4"}) || d.Unserved["IPv6"] != "no ip6tables" {
		t.Errorf("families %v, unserved %v", d.Families, d.Unserved)
	}
	if d.Counts.Services != 3 || d.Counts.Ports["IPv4"] != 3 || len(d.Objects) != 1 || d.Objects[0].Number < 10 {
		t.Errorf("counts %+v, objects %+v", d.Counts, d.Objects)
	}
	if len(d.Dataplanes) != 1 || d.Dataplanes[0].LastSync == nil || !d.Dataplanes[0].LastSync.Resynced {
		t.Errorf("dataplanes %+v", d.Dataplanes)
	}
	if !slices.ContainsFunc(d.Notes, func(n status.Note) bool { return strings.Contains(n.Text, "only one address family is served") }) {
		t.Errorf("the warning of the log is not among %+v", d.Notes)
	}

	// The kernel refuses; what is in force stays, and is what is told of.
	r.kernel.Fail = func(op string) error { return errors.New("kernel says no to " + op) }
	write(t, filepath.Join(dir, "more.yaml"), "apiVersion: v1\nkind: Service\nmetadata: {name: more, namespace: shop}\nspec:\n  clusterIP: 10.96.0.99\n  clusterIPs: [10.96.0.99]\n  ports: [{port: 80}]\n")
	bad := askStatus(t, socket, "the failure is told of", func(code int, d *status.Document) bool {
		return code == 1 && d.Dataplanes[0].Failing != nil
	})
	if p := bad.Dataplanes[0]; bad.Revision != d.Revision || p.Attempted <= d.Revision || !strings.Contains(p.Failing.Error, "kernel says no") {
		t.Errorf("while it fails: %+v", bad)
	}
	if code, out, _ := invoke("status", "--status-socket="+socket); code != 1 || !strings.Contains(out, "FAILING since") {
		t.Errorf("exit status %d, text:\n%s", code, out)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if code, _, errs := invoke("status", "--status-socket="+socket); code != 1 || !strings.Contains(errs, "no fairlead listens here") {
		t.Errorf("after its end: exit status %d, errors %q", code, errs)
	}
}

func TestTraceOfARun(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "status.sock")
	r := startRun(t, examples, [service.NumFamilies]error{}, "--status-socket="+socket, "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48")
	inForce(t, socket)
	ask := func(args string) (int, string, string) {
		return invoke(append([]string{"trace", "--status-socket=" + socket}, strings.Fields(args)...)...)
	}
	// What the process says is what is said of the same manifests.
	for _, args := range []string{
		"--from pod --to 10.96.0.10:80", "--from fd00:10:244:1::2 --to [fd00:10:96::10]:80 --all",
		"--from 198.51.100.9 --to 203.0.113.7:443", "--from pod --to 10.96.0.10 --proto icmp",
	} {
		code, out, errs := ask(args)
		first, rest, _ := strings.Cut(out, "\n")
		if code != 0 || errs != "" || !strings.HasPrefix(first, "asked    fairlead on n1, pid ") {
			t.Errorf("%s: exit status %d, errors %q, output:\n%s", args, code, errs, out)
		}
		_, want, _ := invoke(slices.Concat([]string{"trace", "-f", examples}, nodeArgs(), strings.Fields(args))...)
		if rest != want {
			t.Errorf("%s: the process says\n%s\nwant what manifests give:\n%s", args, rest, want)
		}
	}
	for args, want := range map[string]string{
		"--from pod --to 10.96.0.10":                              `--to: "10.96.0.10" is not ADDR:PORT (see --help)`,
		"--from nobody --to 10.96.0.10:80":                        `--from: "nobody" is not an address, pod, host or outside (see --help)`,
		"--to 10.96.0.10:80":                                      "--from: is required",
		"--from pod --to 10.96.0.10:80 --cluster-cidr=10.0.0.0/8": "--cluster-cidr: is for --file, --kubeconfig or --master",
		"--from pod --to 10.96.0.10:80 --dataplane=ipvs":          "--dataplane: is for",
		"--from pod --to 10.96.0.10:80 --status-socket=x":         "--status-socket: ",
	} {
		if code, _, errs := ask(args); code != 2 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit status %d, errors %q, want 2 and %q", args, code, errs, want)
		}
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if code, _, errs := ask("--from pod --to 10.96.0.10:80"); code != 1 || !strings.Contains(errs, "no fairlead listens here") || !strings.Contains(errs, "--file or --kubeconfig") {
		t.Errorf("after its end: exit status %d, errors %q", code, errs)
	}
}

// TestTraceTellsDisagreement: a running process whose rules are not what was decided
// says so, and the exit status does.
func TestTraceTellsDisagreement(t *testing.T) {
	var p teller
	p.book = new(status.Book)
	p.simulate = func(*service.Snapshot, service.Flow) simulation {
		return simulation{results: []xt.Result{{Verdict: xt.Dropped, P: 1}}}
	}
	dp := p.book.Observe("iptables", &fakePlane{})
	if _, err := p.trace(question{From: "outside", To: "10.96.0.10:80", Proto: "tcp"}); err == nil {
		t.Error("a trace before anything is in force")
	}
	if _, err := dp.Sync(t.Context(), &service.Snapshot{Rev: 1}); err != nil {
		t.Fatal(err)
	}
	a, err := p.trace(question{From: "outside", To: "10.96.0.10:80", Proto: "tcp"})
	if err != nil || !a.Bad || !strings.Contains(a.Text, "This is a bug") {
		t.Errorf("got %+v, %v", a, err)
	}
}

// A fakePlane takes everything.
type fakePlane struct{ service.Dataplane }

func (*fakePlane) Sync(context.Context, *service.Snapshot) (service.Report, error) {
	return service.Report{}, nil
}

// TestStatusWithoutASocket: a process that cannot have one goes on without.
func TestStatusWithoutASocket(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	r := startRun(t, examples, [service.NumFamilies]error{}, "--status-socket="+filepath.Join(file, "status.sock"))
	r.await(t, "the examples are put in force", func(d string) bool { return strings.Contains(d, "10.244.1.3:8081") })
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if code, _, errs := invoke("--manifests=x", "--status-socket=relative"); code != 2 || !strings.Contains(errs, "--status-socket: ") {
		t.Errorf("exit status %d, errors %q", code, errs)
	}
}

func TestCompletion(t *testing.T) {
	for args, want := range map[string][]string{
		"":                             {"status\task the running", "completion\t", "help\t"},
		"st":                           {"status\t"},
		"trace --from ":                {"pod\nhost\noutside\n:4"},
		"plan --dataplane=":            {"iptables\nipvs\nuserspace\n:4"},
		"ipvs -o ":                     {"wide\njson\n:4"},
		"completion ":                  {"bash\nzsh\nfish\n:4"},
		"--proxy-mode ":                {"iptables\nipvs\nuserspace\n:4"},
		"--kubeconfig ":                {":0"},
		"trace --proto tcp --ipvs-sch": {"--ipvs-scheduler\t"},
		"status --stat":                {"--status-socket\tsocket of the running fairlead"},
	} {
		words := strings.Split("__complete "+args, " ")
		code, out, _ := invoke(words...)
		for _, w := range want {
			if code != 0 || !strings.Contains(out, w) {
				t.Errorf("%q: exit status %d, want %q in\n%s", args, code, w, out)
			}
		}
	}
	for _, shell := range shells() {
		code, out, errs := invoke("completion", shell)
		if code != 0 || errs != "" || !strings.Contains(out, "__complete") {
			t.Errorf("%s: exit status %d, errors %q, output:\n%s", shell, code, errs, out)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not installed, so what it thinks of its script is not known", shell)
			continue
		}
		check := exec.CommandContext(t.Context(), path, "-n", "/dev/stdin")
		check.Stdin = strings.NewReader(out)
		if text, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s does not understand its script: %v\n%s", shell, err, text)
		}
	}
	for _, args := range [][]string{{"completion"}, {"completion", "tcsh"}, {"completion", "bash", "zsh"}} {
		if code, _, errs := invoke(args...); code != 2 || errs == "" {
			t.Errorf("%v: exit status %d, errors %q; want 2 and a reason", args, code, errs)
		}
	}
}
