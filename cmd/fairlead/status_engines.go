package main

import (
	"fmt"
	"strings"

	"github.com/fairlead-project/fairlead/iptables"
	"github.com/fairlead-project/fairlead/iptables/xt"
)

// describe says what the dataplane works with.
func (e *iptablesEngine) describe() []string {
	return []string{describeTools(e.tools), describeWriter(e.run)}
}

func (e *ipvsEngine) describe() []string {
	return []string{
		describeTools(e.tools),
		describeWriter(e.run),
		"schedulers of this kernel: " + strings.Join(e.available, ", "),
	}
}

func (e *userspaceEngine) describe() []string {
	return []string{describeTools(e.tools), describeWriter(e.run)}
}

func describeTools(t iptables.Tools) string {
	return fmt.Sprintf("iptables %s, %s: %s", t.Version, t.Variant, t.Reason)
}

// describeWriter says what writes the rules.
func describeWriter(run xt.Runner) string {
	if w, ok := run.(rulesWriter); ok {
		return w.how
	}
	return "rules are written by the tools"
}
