// Command chart is what `helm lint --strict` and `helm template` are, made of
// Helm's own packages: the whole of Helm takes minutes to build.
//
//	chart lint CHART [VALUES...]
//	chart template [-name RELEASE] [-namespace NAMESPACE] [-notes] CHART [VALUES...]
//
// VALUES are files, of which the later win.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/cli/values"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/getter"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, args []string) error {
	const usage = "want lint or template, a chart, and files of values"
	if len(args) == 0 {
		return errors.New(usage)
	}
	fs := flag.NewFlagSet("chart", flag.ContinueOnError)
	release := chartutil.ReleaseOptions{Revision: 1, IsInstall: true}
	fs.StringVar(&release.Name, "name", "fairlead", "name of the release")
	fs.StringVar(&release.Namespace, "namespace", "kube-system", "namespace of the release")
	notes := fs.Bool("notes", false, "print what an operator is told, too")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New(usage)
	}
	vals, err := merge(fs.Args()[1:])
	if err != nil {
		return err
	}
	switch args[0] {
	case "lint":
		return check(out, fs.Arg(0), release.Namespace, vals)
	case "template":
		return template(out, fs.Arg(0), release, vals, *notes)
	}
	return errors.New(usage)
}

// merge reads files of values, of which the later win.
func merge(files []string) (map[string]any, error) {
	opts := values.Options{ValueFiles: files}
	vals, err := opts.MergeValues(getter.Providers{})
	if err != nil {
		return nil, fmt.Errorf("read values: %w", err)
	}
	return vals, nil
}

// check is helm lint --strict: warnings count.
func check(out io.Writer, chart, namespace string, vals map[string]any) error {
	result := lint.AllWithKubeVersion(chart, vals, namespace, nil)
	for _, m := range result.Messages {
		fmt.Fprintln(out, m)
	}
	if result.HighestSeverity >= support.WarningSev {
		return fmt.Errorf("%s does not pass", chart)
	}
	return nil
}

// template is helm template. Values that the schema does not allow are an error.
func template(out io.Writer, dir string, release chartutil.ReleaseOptions, vals map[string]any, notes bool) error {
	chart, err := loader.Load(dir)
	if err != nil {
		return fmt.Errorf("load chart: %w", err)
	}
	all, err := chartutil.ToRenderValues(chart, vals, release, chartutil.DefaultCapabilities)
	if err != nil {
		return fmt.Errorf("values for %s: %w", dir, err)
	}
	files, err := engine.Engine{Strict: true}.Render(chart, all)
	if err != nil {
		return fmt.Errorf("render %s: %w", dir, err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		isNotes := path.Base(name) == "NOTES.txt"
		if strings.TrimSpace(files[name]) == "" || strings.HasPrefix(path.Base(name), "_") || isNotes && !notes {
			continue
		}
		if isNotes {
			fmt.Fprintln(out, files[name])
			continue
		}
		fmt.Fprintf(out, "---\n# Source: %s\n%s\n", name, strings.Trim(files[name], "\n"))
	}
	return nil
}
