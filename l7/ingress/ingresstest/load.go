package ingresstest

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/fairlead-project/fairlead/service"
)

//go:embed corpus/*.txtar corpus/COVERAGE.md
var corpusFS embed.FS

// Load parses the corpus, in order of name. Errors of all files are joined, each with its place. The certificates in it
// are made anew each time.
func Load() ([]*Case, error) {
	entries, err := corpusFS.ReadDir("corpus")
	if err != nil {
		return nil, fmt.Errorf("read corpus: %w", err)
	}
	var cases []*Case
	var errs []error
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".txtar")
		if !ok {
			continue
		}
		b, err := corpusFS.ReadFile(path.Join("corpus", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read corpus: %w", err)
		}
		c, err := Parse(name, b)
		cases, errs = append(cases, c), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	slices.SortFunc(cases, func(a, b *Case) int { return cmp.Compare(a.Name, b.Name) })
	return cases, nil
}

// Coverage returns the rows of corpus/COVERAGE.md: each is a promise that some case has to show.
func Coverage() ([]string, error) {
	b, err := corpusFS.ReadFile("corpus/COVERAGE.md")
	if err != nil {
		return nil, fmt.Errorf("read corpus: %w", err)
	}
	var rows []string
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		if row := strings.TrimSpace(cells[1]); row != "row" && strings.Trim(row, "-") != "" {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// Parse reads one case. It refuses everything it does not understand. Errors begin with
// name.txtar:line.
func Parse(name string, data []byte) (*Case, error) {
	l := &loader{
		c:        &Case{Name: name, Globals: make(map[string]string)},
		sections: make(map[string]*section),
		step:     &Step{Line: 1},
	}
	if err := l.load(data); err != nil {
		return nil, fmt.Errorf("%s.txtar:%d: %w", name, l.line, err)
	}
	return l.c, nil
}

// A section is one file of the archive.
type section struct {
	data []byte
	read bool
}

// A loader is the state of reading one case.
type loader struct {
	c        *Case
	line     int
	begun    bool // a directive other than covers and config has been seen
	step     *Step
	sections map[string]*section
	objects  []object  // in force, in the order in which they came
	services []Service // in force
	classes  bool      // the case has classes of its own
}

func (l *loader) load(data []byte) error {
	ar := txtar.Parse(data)
	for _, f := range ar.Files {
		if l.sections[f.Name] != nil {
			return fmt.Errorf("section %s is there twice", f.Name)
		}
		l.sections[f.Name] = &section{data: f.Data}
		l.classes = l.classes || strings.Contains(string(f.Data), "kind: IngressClass")
	}
	for text := range strings.Lines(string(ar.Comment)) {
		l.line++
		if err := l.directive(strings.TrimSpace(text)); err != nil {
			return err
		}
	}
	if err := l.endStep(); err != nil {
		return err
	}
	for name, s := range l.sections {
		if !s.read {
			return fmt.Errorf("no objects directive reads section %s", name)
		}
	}
	switch {
	case l.c.Doc == "":
		return errors.New("no leading comment says what the case shows")
	case len(l.c.Covers) == 0:
		return errors.New("no covers directive")
	}
	return nil
}

// directive reads one line.
func (l *loader) directive(text string) error {
	verb, rest, _ := strings.Cut(text, " ")
	args := strings.Fields(rest)
	switch verb {
	case "":
		return nil
	case "#":
		if !l.begun && len(l.c.Covers) == 0 {
			l.c.Doc = strings.TrimSpace(l.c.Doc + " " + rest)
		}
		return nil
	case "covers":
		l.c.Covers = append(l.c.Covers, args...)
		return nil
	case "config", "globals":
		if l.begun {
			return fmt.Errorf("%s has to come first", verb)
		}
		return l.config(verb, args)
	}
	if !l.begun {
		l.begun = true
		l.defaultClasses()
	}
	return l.body(verb, rest, args)
}

// body reads a directive about objects or about what must hold.
func (l *loader) body(verb, rest string, args []string) error {
	switch verb {
	case "objects":
		return l.put(args)
	case "delete":
		return l.remove(args)
	case "service":
		return l.service(args)
	case "secret":
		return l.secret(args)
	case "step":
		if err := l.endStep(); err != nil {
			return err
		}
		l.step = &Step{Name: rest, Line: l.line}
		return nil
	case "request":
		return l.request(rest, args)
	}
	return l.expect(verb, args)
}

// endStep adds the step to the case, with what is in force.
func (l *loader) endStep() error {
	s := l.step
	if len(s.Requests)+len(s.Certs)+len(s.Passthrough)+len(s.Problems)+len(s.Served) == 0 {
		return fmt.Errorf("step %q expects nothing", s.Name)
	}
	s.Services = slices.Clone(l.services)
	for _, o := range l.objects {
		o.addTo(&s.Objects)
		s.YAML = append(s.YAML, o.yaml)
	}
	l.c.Steps = append(l.c.Steps, s)
	return nil
}

// config reads the options of the process.
func (l *loader) config(verb string, args []string) error {
	c := &l.c.Config
	flags := map[string]*bool{
		"nginx": &c.Nginx, "without-class": &c.WithoutClass, "no-catch-all": &c.NoCatchAll, "owned-hosts": &c.OwnedHosts,
		"external-names": &c.ExternalNames, "passthrough": &c.Passthrough,
	}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch {
		case verb == "globals":
			l.c.Globals[key] = value
		case flags[arg] != nil:
			*flags[arg] = true
		case key == "class-by-name":
			c.ClassByName = value
		case key == "default-backend":
			name, err := parseName(value)
			if err != nil {
				return err
			}
			c.DefaultBackend = name
		default:
			return fmt.Errorf("unknown option %q", arg)
		}
	}
	return nil
}

func parseName(s string) (service.Name, error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || name == "" {
		return service.Name{}, fmt.Errorf("%q is not namespace/name", s)
	}
	return service.Name{Namespace: namespace, Name: name}, nil
}
