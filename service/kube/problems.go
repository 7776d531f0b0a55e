package kube

import (
	"fmt"

	"github.com/fairlead-project/fairlead/service"
)

// The reasons of Problems found here, as they appear in Events.
const (
	reasonName    = "InvalidName"
	reasonAddress = "InvalidAddress"
	reasonRange   = "InvalidSourceRange"
	reasonPort    = "InvalidPort"
	reasonValue   = "InvalidValue"
)

// maxProblems bounds how much one object can say: a slice of a thousand broken
// endpoints is one mistake, not a thousand.
const maxProblems = 10

// A complaints collects the Problems of one object.
type complaints struct {
	object service.Object
	intern *interner // of what Problems keep
	list   []service.Problem
	more   int // problems beyond maxProblems
}

// add records that something is wrong with field.
func (c *complaints) add(reason, field, format string, args ...any) {
	if len(c.list) >= maxProblems {
		c.more++
		return
	}
	if len(c.list) == 0 {
		c.object.UID = c.intern.own(c.object.UID)
	}
	c.list = append(c.list, service.Problem{
		Object:  c.object,
		Reason:  reason,
		Field:   field,
		Message: fmt.Sprintf(format, args...),
	})
}

// all returns what was recorded, nil if nothing.
func (c *complaints) all() []service.Problem {
	if c.more > 0 {
		return append(c.list, service.Problem{
			Object:  c.object,
			Reason:  "MoreProblems",
			Message: fmt.Sprintf("%d more problems like these", c.more),
		})
	}
	return c.list
}

// at returns the path of the i-th element of a list field.
func at(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }
