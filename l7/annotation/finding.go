package annotation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Severity says what became of what a Finding is about.
type Severity uint8

// The severities, the gravest first.
const (
	Refused Severity = iota // the rule is closed: what protects it was not understood, or cannot be had
	Invalid                 // the value is bad and counts as not written
	Ignored                 // the annotation has no effect here, or none yet
	Differs                 // it works, but not quite as ingress-nginx would do it
)

// String returns the severity in one lower-case word.
func (s Severity) String() string {
	return [...]string{"refused", "invalid", "ignored", "differs"}[s]
}

// MarshalText makes severities words in JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Finding is something to tell the owner of an Ingress, or of the ConfigMap of globals.
type Finding struct {
	Key      string   `json:"key"` // of the annotation, with its prefix as written; or of the ConfigMap
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`
}

// String returns "key: message (severity)".
func (f Finding) String() string {
	return fmt.Sprintf("%s: %s (%s)", f.Key, f.Message, f.Severity)
}

// Reason returns the reason of the Event about f, in the form that Kubernetes wants.
func (f Finding) Reason() string {
	switch {
	case strings.HasSuffix(f.Key, "-snippet"):
		return "RefusedSnippet"
	case f.Severity == Refused, f.Severity == Invalid:
		return "InvalidAnnotation"
	case f.Severity == Differs:
		return "AnnotationDiffers"
	default:
		return "UnsupportedAnnotation"
	}
}

// sortFindings puts the gravest first, then by key, so that equal input gives equal output.
func sortFindings(list []Finding) []Finding {
	slices.SortStableFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), strings.Compare(a.Key, b.Key), strings.Compare(a.Message, b.Message))
	})
	return slices.Compact(list)
}
