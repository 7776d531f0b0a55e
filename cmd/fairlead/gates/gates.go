// Package gates knows the feature gates of Kubernetes. None of them changes what fairlead does: they are read so that
// featureGates which kube-proxy takes are taken here, and those it refuses are refused.
package gates

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/component-base/featuregate"
)

// known is what e2e/tools/featuregates prints: name, default, stage, and "locked" where the default is.
//
//go:generate sh -c "cd ../../../e2e/tools && go run ./featuregates > ../../cmd/fairlead/gates/known.txt"
//go:embed known.txt
var known string

// A Gate is a feature gate as this release of Kubernetes knows it.
type Gate struct {
	Name    string
	Default bool
	Stage   string // ALPHA, BETA, GA or DEPRECATED
	Locked  bool   // it cannot be set to anything but its default
}

// Known returns every gate, by name.
func Known() []Gate {
	var out []Gate
	for line := range strings.Lines(known) {
		words := strings.Fields(line)
		on, _ := strconv.ParseBool(words[1]) // a test reads them all
		out = append(out, Gate{Name: words[0], Default: on, Stage: words[2], Locked: len(words) > 3})
	}
	return out
}

// Resolve returns every gate that is on or off, by name, when those in set are as they say. AllAlpha and AllBeta stand
// for the gates of that stage that are not in set. The error is kube-proxy's: it names a gate that is unknown, or
// locked to another value.
func Resolve(set map[string]bool) (map[string]bool, error) {
	gate := featuregate.NewFeatureGate()
	specs := make(map[featuregate.Feature]featuregate.FeatureSpec)
	all := Known()
	for _, g := range all {
		spec := featuregate.FeatureSpec{Default: g.Default, LockToDefault: g.Locked}
		switch g.Stage {
		case "ALPHA":
			spec.PreRelease = featuregate.Alpha
		case "BETA":
			spec.PreRelease = featuregate.Beta
		case "DEPRECATED":
			spec.PreRelease = featuregate.Deprecated
		}
		if g.Name != "AllAlpha" && g.Name != "AllBeta" { // every registry has those
			specs[featuregate.Feature(g.Name)] = spec
		}
	}
	if err := gate.Add(specs); err != nil {
		return nil, fmt.Errorf("register feature gates: %w", err)
	}
	if err := gate.SetFromMap(set); err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(all))
	for _, g := range all {
		out[g.Name] = gate.Enabled(featuregate.Feature(g.Name))
	}
	return out, nil
}

// Parse reads a list such as A=true,B=false.
func Parse(list string) (map[string]bool, error) {
	out := make(map[string]bool)
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, value, ok := strings.Cut(item, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not NAME=true or NAME=false", item)
		}
		on, err := strconv.ParseBool(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("%q is not NAME=true or NAME=false", item)
		}
		out[strings.TrimSpace(name)] = on
	}
	return out, nil
}

// Format is the inverse of Parse.
func Format(set map[string]bool) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		out = append(out, name+"="+strconv.FormatBool(set[name]))
	}
	return strings.Join(out, ",")
}
