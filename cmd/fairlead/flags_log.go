package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
)

// logFlags are about the form of the log. How much there is of it is --v.
type logFlags struct {
	Format         string
	VModule        string
	FlushFrequency time.Duration

	// What nothing is done with.
	TextSplit, JSONSplit   bool
	TextBuffer, JSONBuffer string
}

func (f *logFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.Format, "logging-format", "text", "text or json")
	fs.StringVar(&f.VModule, "vmodule", "", "log levels of single files, FILE=N with commas, where FILE is a name without .go and may have wildcards")
	fs.DurationVar(&f.FlushFrequency, "log-flush-frequency", 5*time.Second, "accepted for kube-proxy's sake; each line is written at once here")
	fs.BoolVar(&f.TextSplit, "log-text-split-stream", false, "accepted for kube-proxy's sake; all goes to the error output here")
	fs.BoolVar(&f.JSONSplit, "log-json-split-stream", false, "as --log-text-split-stream")
	fs.StringVar(&f.TextBuffer, "log-text-info-buffer-size", "0", "accepted for kube-proxy's sake; there is no buffer here")
	fs.StringVar(&f.JSONBuffer, "log-json-info-buffer-size", "0", "as --log-text-info-buffer-size")
	for _, name := range []string{
		"log-flush-frequency", "log-text-split-stream", "log-json-split-stream", "log-text-info-buffer-size", "log-json-info-buffer-size",
	} {
		fs.Lookup(name).Hidden = true
	}
}

func (f *logFlags) check(fail failFunc) {
	if f.Format != "text" && f.Format != "json" {
		fail("logging-format", "unknown format %q; valid: text, json", f.Format)
	}
	if _, err := parseVModule(f.VModule); err != nil {
		fail("vmodule", "%w", err)
	}
	if f.VModule != "" && f.Format == "json" {
		fail("vmodule", "goes with --logging-format=text only, as in kube-proxy")
	}
	if f.FlushFrequency <= 0 {
		fail("log-flush-frequency", "must be above 0, is %s", f.FlushFrequency)
	}
	for name, size := range map[string]string{"log-text-info-buffer-size": f.TextBuffer, "log-json-info-buffer-size": f.JSONBuffer} {
		if _, err := resource.ParseQuantity(size); err != nil {
			fail(name, "%q: %w", size, err)
		}
	}
}

// A fileLevel is how much single files log.
type fileLevel struct {
	Pattern   string
	Verbosity int
}

// parseVModule reads FILE=N,FILE=N.
func parseVModule(list string) ([]fileLevel, error) {
	var out []fileLevel
	for item := range strings.SplitSeq(list, ",") {
		if item == "" {
			continue
		}
		pattern, level, _ := strings.Cut(item, "=")
		n, err := strconv.ParseUint(level, 10, 31)
		if err != nil || pattern == "" {
			return nil, errVModule(item)
		}
		out = append(out, fileLevel{pattern, int(n)})
	}
	return out, nil
}

type errVModule string

// Error implements error.
func (e errVModule) Error() string { return strconv.Quote(string(e)) + " is not FILE=N" }
