package control

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"
)

// The pages /statusz and /flagz of Kubernetes components: text for people, and
// the object of the API group config.k8s.io for those who ask for it by the header
// Accept.

// pagesGroup is the API group of both, and pageVersions the versions of it that
// are known.
const pagesGroup = "config.k8s.io"

func pageVersions() []string { return []string{"v1beta1", "v1alpha1"} }

// pageWarning is the second line of both texts.
const pageWarning = "Warning: this page is for people; programs ask for application/json;g=config.k8s.io;v=v1beta1."

// An objectPage answers with text, or with JSON to who asks for the kind.
func objectPage(kind string, text func(io.Writer), object func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		version, ok := wanted(strings.Join(r.Header.Values("Accept"), ","), kind)
		switch {
		case !ok:
			http.Error(w, "there are text/plain and application/json;g="+pagesGroup+";v="+pageVersions()[0]+";as="+kind, http.StatusNotAcceptable)
		case version == "":
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			text(w)
		default:
			out, err := json.MarshalIndent(object(), "", "  ")
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/json;g="+pagesGroup+";v="+version+";as="+kind)
			_, _ = w.Write(append(out, '\n'))
		}
	}
}

// wanted reads a header Accept. The version is empty for text; false means that
// nothing in it can be had.
func wanted(accept, kind string) (version string, ok bool) {
	if strings.TrimSpace(accept) == "" {
		return "", true
	}
	for part := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		switch media {
		case "text/plain", "text/*", "*/*":
			return "", true
		case "application/json":
			if params["g"] == pagesGroup && params["as"] == kind && slices.Contains(pageVersions(), params["v"]) {
				return params["v"], true
			}
		}
	}
	return "", false
}

// pageObject is what both objects have in common.
type pageObject struct {
	Kind       string            `json:"kind"`
	APIVersion string            `json:"apiVersion"`
	Metadata   map[string]string `json:"metadata"`
}

func newPageObject(kind, name string) pageObject {
	return pageObject{kind, pagesGroup + "/" + pageVersions()[0], map[string]string{"name": name}}
}

// statusz says what runs, and since when.
func (c MetricsConfig) statusz(paths []string) http.HandlerFunc {
	up := func() int { return int(time.Since(c.Started) / time.Second) }
	text := func(w io.Writer) {
		s := up()
		fmt.Fprintf(w, "\n%s statusz\n%s\n\n", c.Name, pageWarning)
		fmt.Fprintf(w, "Started: %s\n", c.Started.UTC().Format(time.UnixDate))
		fmt.Fprintf(w, "Up: %d hr %02d min %02d sec\n", s/3600, s/60%60, s%60)
		fmt.Fprintf(w, "Go version: %s\nBinary version: %s\nEmulation version: %s\n", runtime.Version(), c.Version, c.Kubernetes)
		fmt.Fprintf(w, "Proxy mode: %s\nPaths: %s\n", c.ProxyMode, strings.Join(paths, " "))
	}
	return objectPage("Statusz", text, func() any {
		return struct {
			pageObject
			StartTime        time.Time `json:"startTime"`
			UptimeSeconds    int       `json:"uptimeSeconds"`
			GoVersion        string    `json:"goVersion"`
			BinaryVersion    string    `json:"binaryVersion"`
			EmulationVersion string    `json:"emulationVersion"`
			Paths            []string  `json:"paths"`
		}{
			newPageObject("Statusz", c.Name), c.Started.UTC().Truncate(time.Second), up(),
			runtime.Version(), c.Version, c.Kubernetes, paths,
		}
	})
}

// flagz says what was asked for on the command line.
func (c MetricsConfig) flagz() http.HandlerFunc {
	text := func(w io.Writer) {
		fmt.Fprintf(w, "\n%s flagz\n%s\n", c.Name, pageWarning)
		flags := c.Flags()
		for _, name := range slices.Sorted(maps.Keys(flags)) {
			fmt.Fprintf(w, "%s=%s\n", name, flags[name])
		}
	}
	return objectPage("Flagz", text, func() any {
		return struct {
			pageObject
			Flags map[string]string `json:"flags"`
		}{newPageObject("Flagz", c.Name), c.Flags()}
	})
}

// maxVerbosity is more than enough for a number in a request's body.
const maxVerbosity = 64

// setVerbosity is PUT /debug/flags/v.
func (c MetricsConfig) setVerbosity(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method != http.MethodPut {
		w.WriteHeader(http.StatusNotAcceptable) // which is what other components say
		fmt.Fprintln(w, "only PUT is understood here, with the number in the body")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxVerbosity))
	if err == nil {
		err = c.SetVerbosity(strings.TrimSpace(string(body)))
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintf(w, "successfully set verbosity to %s\n", body)
}

// flagsIndex is /debug/flags/.
func flagsIndex(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/debug/flags/" && r.URL.Path != "/debug/flags" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, "<html><head><title>/debug/flags/</title></head><body>flags that can be set: v</body></html>\n")
}
