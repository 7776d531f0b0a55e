package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/ipvs"
	"github.com/fairlead-project/fairlead/l7/stats"
	"github.com/fairlead-project/fairlead/service/control"
	"github.com/fairlead-project/fairlead/takeover"
	"github.com/fairlead-project/fairlead/userspace"
)

// The tests of this file and of house_globals_test.go hold the whole repository to the rules of the house.
// Each failure names the file, the line and the reason for the rule.

const module = "github.com/fairlead-project/fairlead"

// The budget of functions and files, after what good code bases keep to.
const (
	maxFunction = 80
	maxFile     = 700
)

// A goFile is one Go file of the repository.
type goFile struct {
	path  string // relative to the root, with slashes
	dir   string
	fset  *token.FileSet
	ast   *ast.File
	lines int
}

func (f *goFile) test() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f *goFile) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(n.Pos()).Line)
}

// within reports whether f is in one of the folders or below. A folder of "*/x"
// stands for every folder named x.
func (f *goFile) within(folders ...string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		if name, ok := strings.CutPrefix(folder, "*/"); ok {
			return slices.Contains(strings.Split(f.dir, "/"), name)
		}
		return f.dir == folder || strings.HasPrefix(f.dir, folder+"/")
	})
}

// repo returns every Go file of the repository that people wrote.
func repo(t *testing.T) []*goFile {
	t.Helper()
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatalf("the root of the repository: %v", err)
	}
	var files []*goFile
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if p != root && (name == "testdata" || name == "vendor" || name == "bin" || strings.HasPrefix(name, ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := readGo(root, p)
		if err == nil && !ast.IsGenerated(f.ast) {
			files = append(files, f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("found only %d Go files", len(files))
	}
	return files
}

func readGo(root, p string) (*goFile, error) {
	rel, err := filepath.Rel(root, p)
	if err != nil {
		return nil, err
	}
	rel = filepath.ToSlash(rel)
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &goFile{
		path: rel, dir: path.Dir(rel), fset: fset, ast: tree,
		lines: fset.File(tree.Pos()).LineCount(),
	}, nil
}

// An importRule says what a part of the repository must not import.
type importRule struct {
	in      []string // the rule is for these folders; nil means all
	except  []string // but not for these
	banned  []string // import paths and all below, without those below if they end in $; "*" is all but the standard library
	allowed []string // exceptions to banned, written the same way
	tests   bool     // test files are bound by it too
	reason  string
}

// importRules is who may import whom.
func importRules() []importRule {
	return []importRule{
		{
			in: []string{"service"}, except: []string{
				"service/kube", "service/control", "service/conntrack", "service/sysctl", "service/servicetest",
			}, banned: []string{"*"},
			reason: "policy depends on nothing, so that it can be read and tested by itself",
		},
		{
			in: []string{"iptables/xt"}, banned: []string{"*"}, allowed: []string{module + "/iptables/xt"},
			reason: "the leaf under every dataplane knows nothing of Services, or of anything else",
		},
		{
			banned: []string{"k8s.io/client-go"}, except: []string{"*/kube", "cmd", "e2e"}, tests: true,
			reason: "only the edge to the API server talks to it",
		},
		{
			banned: []string{"k8s.io"}, except: []string{"*/kube", "service/servicetest", "cmd", "e2e"}, tests: true,
			reason: "API types end where they are converted",
		},
		{
			in: []string{"iptables", "ipvs", "userspace"}, banned: []string{module + "/service"},
			allowed: []string{module + "/service$", module + "/service/sysctl"},
			reason:  "a dataplane sees Snapshots, not where they come from nor who calls it",
		},
		{
			in: []string{"iptables"}, banned: []string{module + "/ipvs", module + "/userspace", module + "/l7"},
			tests: true, reason: "dataplanes do not know each other",
		},
		{
			in: []string{"ipvs"}, banned: []string{module + "/iptables", module + "/userspace", module + "/l7"},
			allowed: []string{module + "/iptables/xt"},
			tests:   true, reason: "dataplanes do not know each other; what they share is iptables/xt",
		},
		{
			in: []string{"ipvs/kernel"}, banned: []string{module + "/iptables", module + "/ipvs$"},
			tests: true, reason: "the edge to the kernel does what it is told; what that is for is decided above it",
		},
		{
			in: []string{"userspace"}, banned: []string{module + "/iptables", module + "/ipvs", module + "/l7"},
			allowed: []string{module + "/iptables/xt", module + "/ipvs/kernel"},
			tests:   true, reason: "dataplanes do not know each other; what they share is iptables/xt and ipvs/kernel",
		},
		{
			in: []string{"l7"}, banned: []string{module + "/iptables", module + "/ipvs", module + "/userspace"},
			tests: true, reason: "L7 works beside any dataplane, or none",
		},
		{
			in: []string{"service"}, banned: []string{module + "/iptables", module + "/ipvs", module + "/userspace", module + "/l7"},
			tests: true, reason: "the model does not know what is made of it",
		},
		{
			banned: []string{module + "/cmd"}, except: []string{"cmd"}, tests: true,
			reason: "the command is put together last",
		},
		{
			banned: []string{module + "/e2e"}, except: []string{"e2e"}, tests: true,
			reason: "test machinery does not get into the product",
		},
		{
			banned: []string{module + "/service/servicetest", module + "/l7/exchange/exchangetest", module + "/l7/ingress/ingresstest"},
			except: []string{"e2e", "service/servicetest"},
			reason: "test kits do not get into the product",
		},
		{
			banned: []string{"os/exec"}, except: []string{"iptables/xt", "ipvs/modules", "l7/child", "e2e"},
			reason: "programs are run in one place, which bounds their time and their output; l7/child runs ourselves",
		},
		{
			banned: []string{"flag", "github.com/spf13/pflag"}, except: []string{"cmd", "e2e", "service/servicetest"},
			reason: "flags belong to the command; packages take a Config",
		},
		{
			banned: []string{"log$", "k8s.io/klog"}, except: []string{"service/kube/watch", "e2e"},
			reason: "logging goes through the *slog.Logger that was handed in",
		},
	}
}

func (r *importRule) binds(f *goFile) bool {
	return (r.tests || !f.test()) && (r.in == nil || f.within(r.in...)) && !f.within(r.except...)
}

func (r *importRule) bans(imported string) bool {
	names := func(pattern string) bool {
		if pattern == "*" {
			return strings.Contains(strings.Split(imported, "/")[0], ".")
		}
		exact, ok := strings.CutSuffix(pattern, "$")
		return imported == exact || !ok && strings.HasPrefix(imported, pattern+"/")
	}
	return slices.ContainsFunc(r.banned, names) && !slices.ContainsFunc(r.allowed, names)
}

func TestHouseImports(t *testing.T) {
	files := repo(t)
	rules := importRules()
	for _, f := range files {
		for _, spec := range f.ast.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rules {
				if r.binds(f) && r.bans(imported) {
					t.Errorf("%s: imports %s: %s", f.at(spec), imported, r.reason)
				}
			}
		}
	}
}

// TestHouseRulesBite makes sure that the rules above can fail.
func TestHouseRulesBite(t *testing.T) {
	for _, c := range []struct {
		file, imports string
		want          bool
	}{
		{"service/choose.go", "k8s.io/api/core/v1", true},
		{"service/choose.go", module + "/service/kube", true},
		{"service/choose.go", "net/netip", false},
		{"service/kube/slice.go", "k8s.io/api/core/v1", false},
		{"service/control/loop.go", "k8s.io/client-go/rest", true},
		{"service/control/loop.go", module + "/iptables", true},
		{"service/kube/watch/source.go", "k8s.io/client-go/rest", false},
		{"l7/kube/source.go", "k8s.io/client-go/rest", false},
		{"iptables/plan.go", module + "/service", false},
		{"iptables/plan.go", module + "/service/kube", true},
		{"iptables/plan.go", module + "/ipvs", true},
		{"iptables/xt/exec.go", "os/exec", false},
		{"iptables/xt/exec.go", "golang.org/x/sys/unix", true},
		{"iptables/detect.go", "os/exec", true},
		{"ipvs/ipvs.go", module + "/iptables", true},
		{"ipvs/ipvs.go", module + "/iptables/xt", false},
		{"ipvs/ipvs.go", module + "/ipvs/kernel", false},
		{"ipvs/ipvs.go", module + "/service/control", true},
		{"ipvs/ipvs.go", "os/exec", true},
		{"ipvs/kernel/kernel_linux.go", "os/exec", true},
		{"ipvs/kernel/kernel_linux.go", "golang.org/x/sys/unix", false},
		{"ipvs/kernel/fake.go", module + "/ipvs", true},
		{"ipvs/kernel/fake.go", module + "/iptables/xt", true},
		{"cmd/fairlead/run.go", module + "/e2e/netns", true},
		{"iptables/iptables_test.go", module + "/e2e/netns", true},
		{"iptables/iptables_test.go", module + "/service/servicetest", false},
		{"iptables/iptables.go", module + "/service/servicetest", true},
	} {
		f := &goFile{path: c.file, dir: path.Dir(c.file)}
		got := slices.ContainsFunc(importRules(), func(r importRule) bool { return r.binds(f) && r.bans(c.imports) })
		if got != c.want {
			t.Errorf("%s importing %s is refused: %v, want %v", c.file, c.imports, got, c.want)
		}
	}
}

// policyWords are what only the place where policy is decided may speak of.
func policyWords() []string {
	return []string{"Ready", "Zones", "Terminating", "Hints", "TrafficPolicy", "ForNodes"}
}

func TestHousePolicyWords(t *testing.T) {
	for _, f := range repo(t) {
		if f.test() || f.within("service", "e2e", "*/kube") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			for _, w := range policyWords() {
				if holdsWord(id.Name, w) {
					t.Errorf("%s: %s: policy is decided in service and nowhere else; take the answer from the Snapshot", f.at(id), id.Name)
				}
			}
			return true
		})
	}
}

// holdsWord reports whether w is a word of the camel-case name.
func holdsWord(name, w string) bool {
	i := strings.Index(name, w)
	if i < 0 {
		return false
	}
	rest := name[i+len(w):]
	return rest == "" || !unicode.IsLower(rune(rest[0]))
}

func TestHouseNetIP(t *testing.T) {
	banned := []string{"IP", "IPNet", "IPMask", "IPAddr", "ParseIP", "ParseCIDR", "IPv4", "CIDRMask"}
	for _, f := range repo(t) {
		if f.within("service/conntrack", "e2e") || strings.HasSuffix(f.path, "_linux.go") || strings.HasSuffix(f.path, "_linux_test.go") {
			continue
		}
		eachSelector(f, "net", func(sel *ast.SelectorExpr) {
			if slices.Contains(banned, sel.Sel.Name) {
				t.Errorf("%s: net.%s: addresses are netip, which can be compared; net.IP ends at the netlink edge", f.at(sel), sel.Sel.Name)
			}
		})
	}
}

func TestHouseDefaultLogger(t *testing.T) {
	banned := []string{"Default", "SetDefault", "Debug", "Info", "Warn", "Error", "Log", "With"}
	for _, f := range repo(t) {
		eachSelector(f, "slog", func(sel *ast.SelectorExpr) {
			if slices.Contains(banned, sel.Sel.Name) {
				t.Errorf("%s: slog.%s: use the logger that was handed in", f.at(sel), sel.Sel.Name)
			}
		})
	}
}

// eachSelector calls do for every pkg.Name in f.
func eachSelector(f *goFile, pkg string, do func(*ast.SelectorExpr)) {
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == pkg {
				do(sel)
			}
		}
		return true
	})
}

func TestHousePackageDocs(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range repo(t) {
		if f.test() {
			continue
		}
		name := f.ast.Name.Name
		start := "Package " + name + " "
		if name == "main" {
			start = "Command "
		}
		documented[f.dir] = documented[f.dir] || f.ast.Doc != nil && strings.HasPrefix(f.ast.Doc.Text(), start)
		if slices.Contains([]string{"util", "utils", "common", "helpers", "types", "manager", "misc"}, name) {
			t.Errorf("%s: package %s: a package is named after what it provides", f.at(f.ast.Name), name)
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s:1: no comment says what the package is for, beginning with its name", dir)
		}
	}
}

func TestHouseSize(t *testing.T) {
	for _, f := range repo(t) {
		if f.lines > maxFile {
			t.Errorf("%s:%d: the file is longer than %d lines: find the part that can stand alone", f.path, maxFile, maxFile)
		}
		if f.test() {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1; n > maxFunction {
				t.Errorf("%s: func %s has %d lines, more than %d: look for the noun that is missing", f.at(fn), fn.Name.Name, n, maxFunction)
			}
		}
	}
}

// A metricRecorder is a Registerer that notes what is registered.
type metricRecorder struct {
	prometheus.Registerer
	descs []*prometheus.Desc
}

func (r *metricRecorder) Register(c prometheus.Collector) error {
	ch := make(chan *prometheus.Desc, 64)
	c.Describe(ch)
	close(ch)
	for d := range ch {
		r.descs = append(r.descs, d)
	}
	return r.Registerer.Register(c)
}

func (r *metricRecorder) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

// TestHouseMetrics looks at the metrics themselves, since names are put together
// at run time.
func TestHouseMetrics(t *testing.T) {
	makers := map[string]func(prometheus.Registerer){
		"iptables":        func(r prometheus.Registerer) { iptables.NewMetrics(r) },
		"ipvs":            func(r prometheus.Registerer) { ipvs.NewMetrics(r) },
		"userspace":       func(r prometheus.Registerer) { userspace.NewMetrics(r, nil) },
		"service/control": func(r prometheus.Registerer) { control.NewMetrics(r, "v0") },
		"takeover":        func(r prometheus.Registerer) { takeover.NewMetrics(r) },
		"l7/stats":        func(r prometheus.Registerer) { r.MustRegister(stats.New()) },
	}
	// Those of L7 are per Ingress, of which it labels a bounded number.
	perObject := []string{"l7/stats"}
	name := regexp.MustCompile(`fqName: "([^"]*)", help: "([^"]*)".*variableLabels: \{([^}]*)\}`)
	valid := regexp.MustCompile(`^(kubeproxy|fairlead)(_[a-z0-9]+)+$`)
	for dir, register := range makers {
		r := &metricRecorder{Registerer: prometheus.NewRegistry()}
		register(r)
		if len(r.descs) == 0 {
			t.Errorf("%s: registers no metrics", dir)
		}
		for _, d := range r.descs {
			m := name.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("%s: cannot read %s", dir, d)
			}
			if !valid.MatchString(m[1]) {
				t.Errorf("%s: metric %s: names begin with kubeproxy_, if it is kube-proxy's, or fairlead_", dir, m[1])
			}
			if !strings.HasSuffix(m[2], ".") {
				t.Errorf("%s: metric %s: its help is no sentence: %q", dir, m[1], m[2])
			}
			for label := range strings.SplitSeq(m[3], ",") {
				if !slices.Contains(perObject, dir) && slices.Contains([]string{"service", "namespace", "name", "pod", "endpoint", "address", "port"}, label) {
					t.Errorf("%s: metric %s: label %s has as many values as there are Services", dir, m[1], label)
				}
			}
		}
	}
	for _, f := range repo(t) {
		if f.test() || f.within("e2e") {
			continue
		}
		eachSelector(f, "prometheus", func(sel *ast.SelectorExpr) {
			n := sel.Sel.Name
			if makers[f.dir] == nil && strings.HasPrefix(n, "New") && n != "NewRegistry" {
				t.Errorf("%s: prometheus.%s: add the constructor of these metrics to TestHouseMetrics", f.at(sel), n)
			}
		})
	}
}
