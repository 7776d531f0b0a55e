package annotation

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// WriteText writes a report for people to read.
func WriteText(w io.Writer, entries []Entry) error {
	var b strings.Builder
	good := 0
	for _, e := range entries {
		if len(e.Unsupported) == 0 {
			good++
		}
		fmt.Fprintf(&b, "%s: %d not supported, %d different, %d the same\n", e.Ingress, len(e.Unsupported), len(e.Differs), len(e.Same))
		writeNotes(&b, "not supported", e.Unsupported)
		writeNotes(&b, "different", e.Differs)
		if len(e.Same) > 0 {
			b.WriteString("  the same\n")
			for _, n := range e.Same {
				b.WriteString("    " + n.Subject + "\n")
			}
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "In %d of %d Ingresses everything is supported.\n", good, len(entries))
	b.WriteString("Lines marked [nginx] hold if fairlead adopts the class of ingress-nginx, [fairlead] if the Ingress moves to a class of fairlead, others for both.\n\nIn general\n")
	writeNotes(&b, "", General())
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func writeNotes(b *strings.Builder, title string, notes []Note) {
	if len(notes) == 0 {
		return
	}
	if title != "" {
		b.WriteString("  " + title + "\n")
	}
	for _, n := range notes {
		b.WriteString("    ")
		if n.When != Always {
			b.WriteString("[" + string(n.When) + "] ")
		}
		fmt.Fprintf(b, "%s: %s\n", n.Subject, n.Message)
	}
}

// WriteJSON writes a report for programs to read: an object with the fields general and ingresses.
func WriteJSON(w io.Writer, entries []Entry) error {
	if entries == nil {
		entries = []Entry{}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(struct {
		General   []Note  `json:"general"`
		Ingresses []Entry `json:"ingresses"`
	}{General(), entries}); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
