package main

import (
	"fmt"
	"strings"

	"github.com/fairlead-project/fairlead/iptables"
)

// describe says what the dataplane works with.
func (e *iptablesEngine) describe() []string { return []string{describeTools(e.tools)} }

func (e *ipvsEngine) describe() []string {
	return []string{
		describeTools(e.tools),
		"schedulers of this kernel: " + strings.Join(e.available, ", "),
	}
}

func (e *userspaceEngine) describe() []string { return []string{describeTools(e.tools)} }

func describeTools(t iptables.Tools) string {
	return fmt.Sprintf("iptables %s, %s: %s", t.Version, t.Variant, t.Reason)
}
