package servicetest

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

// Load parses the corpus. Errors of all files are joined, each with its place.
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
			errs = append(errs, fmt.Errorf("read corpus: %w", err))
			continue
		}
		c, err := Parse(name, b)
		errs = append(errs, err)
		cases = append(cases, c)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	slices.SortFunc(cases, func(a, b *Case) int { return cmp.Compare(a.Name, b.Name) })
	return cases, nil
}

// Parse reads one case. It refuses everything it does not understand: unknown
// directives, sections nobody reads, flows between places that do not exist.
// Errors begin with name.txtar:line.
func Parse(name string, data []byte) (*Case, error) {
	l := &loader{
		c:        &Case{Name: name},
		sections: make(map[string]*section),
		objects:  make(map[objectKey]*object),
	}
	if err := l.load(data); err != nil {
		return nil, fmt.Errorf("%s.txtar:%d: %w", name, l.line, err)
	}
	return l.c, nil
}

// A section is one file of the archive.
type section struct {
	data []byte
	line int
	read bool
}

// A loader is the state of reading one case.
type loader struct {
	c        *Case
	line     int
	body     bool // a directive other than covers has been seen
	noded    bool
	step     *Step
	sections map[string]*section
	objects  map[objectKey]*object // in force
	order    int                   // of objects, counting up
}

func (l *loader) load(data []byte) error {
	ar := txtar.Parse(data)
	if err := l.index(data, ar); err != nil {
		return err
	}
	if err := l.setNode(nil); err != nil {
		return err
	}
	l.step = &Step{Line: 1}
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
			l.line = s.line
			return fmt.Errorf("no objects directive reads section %s", name)
		}
	}
	l.line = 1
	return l.complete()
}

// index notes the sections and where they begin.
func (l *loader) index(data []byte, ar *txtar.Archive) error {
	starts := make(map[string]int)
	n := 0
	for text := range strings.Lines(string(data)) {
		n++
		if m := strings.TrimSpace(text); strings.HasPrefix(m, "-- ") && strings.HasSuffix(m, " --") {
			starts[strings.TrimSpace(m[2:len(m)-2])] = n
		}
	}
	for _, f := range ar.Files {
		if l.sections[f.Name] != nil {
			l.line = starts[f.Name]
			return fmt.Errorf("section %s is there twice", f.Name)
		}
		l.sections[f.Name] = &section{data: f.Data, line: starts[f.Name]}
	}
	return nil
}

// complete checks what no single line can tell.
func (l *loader) complete() error {
	switch {
	case l.c.Doc == "":
		return errors.New("no leading comment says what the case shows")
	case len(l.c.Covers) == 0:
		return errors.New("no covers directive")
	}
	for _, s := range l.c.Steps {
		if len(s.Flows)+len(s.Problems)+len(s.Health)+len(s.Affinity)+len(s.Scheduling)+len(s.Pools)+len(s.Internal) == 0 {
			l.line = s.Line
			return errors.New("step expects nothing")
		}
	}
	return nil
}

func (l *loader) directive(text string) error {
	if text == "" {
		return nil
	}
	if doc, ok := strings.CutPrefix(text, "#"); ok {
		if !l.body {
			l.c.Doc = strings.TrimSpace(l.c.Doc + " " + strings.TrimSpace(doc))
		}
		return nil
	}
	l.body = true
	f := strings.Fields(text)
	switch verb, args := f[0], f[1:]; verb {
	case "covers", "node", "skip", "manifest-only":
		return l.preamble(verb, args)
	case "objects":
		return l.putObjects(args)
	case "delete":
		return l.deleteObject(args)
	case "step":
		return l.nextStep(strings.Join(args, " "))
	default:
		return l.expect(verb, args, text)
	}
}

// preamble handles what is said of the whole case.
func (l *loader) preamble(verb string, args []string) error {
	if len(l.c.Steps) > 0 || len(l.objects) > 0 {
		return fmt.Errorf("%s must come before objects", verb)
	}
	if len(args) == 0 {
		return fmt.Errorf("%s says nothing", verb)
	}
	switch verb {
	case "covers":
		l.c.Covers = append(l.c.Covers, args...)
	case "node":
		if l.noded || args[0] != "n1" {
			return errors.New("want one node directive, for n1")
		}
		l.noded = true
		return l.setNode(args[1:])
	case "skip":
		if len(args) < 2 {
			return errors.New("want skip WHO REASON")
		}
		if l.c.Skip == nil {
			l.c.Skip = make(map[string]string)
		}
		l.c.Skip[args[0]] = strings.Join(args[1:], " ")
	case "manifest-only":
		l.c.ManifestOnly = true
	}
	return nil
}

func (l *loader) nextStep(name string) error {
	if name == "" {
		return errors.New("a step needs a name")
	}
	if err := l.endStep(); err != nil {
		return err
	}
	l.step = &Step{Name: name, Line: l.line}
	return nil
}

// endStep freezes the objects now in force into the current step and checks
// that its expectations speak of things that are there.
func (l *loader) endStep() error {
	if len(l.objects) == 0 && len(l.c.Steps) == 0 {
		return errors.New("no objects")
	}
	l.freeze()
	if !l.c.ManifestOnly {
		if err := admit(l.step); err != nil {
			return err
		}
	}
	for _, f := range l.step.Flows {
		if err := known(l.step, f.Want); err != nil {
			l.line = f.Line
			return err
		}
	}
	for _, r := range l.step.Internal {
		if err := known(l.step, r.Want); err != nil {
			l.line = r.Line
			return err
		}
	}
	l.c.Steps = append(l.c.Steps, *l.step)
	return nil
}

// known reports hops that no slice of the step could be meant by.
func known(s *Step, want service.Outcome) error {
	for _, h := range want.Hops {
		a := h.Endpoint.Addr
		if !hasEndpoint(s.Slices, a.Addr().String(), int32(a.Port())) {
			return fmt.Errorf("no slice of this step holds %s", a)
		}
	}
	return nil
}
