package kube

import (
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-project/fairlead/service"
)

// The annotations that say how the connections to a Service are shared out.
//
// A Service asks for an algorithm by its IPVS name, such as wlc, and for flags of
// it, with commas. The annotations of kube-router mean the same, so that Services
// need not be edited for a move; they are read if the Service has neither of ours.
//
// A slice has the weight of each of its endpoints, a whole number from 1 to 65535;
// without one it is 1.
const (
	AnnotationScheduler      = "fairlead.io/scheduler"
	AnnotationSchedulerFlags = "fairlead.io/scheduler-flags"
	AnnotationWeight         = "fairlead.io/weight"

	annotationRouterScheduler = "kube-router.io/service.scheduler"
	annotationRouterFlags     = "kube-router.io/service.schedflags"
)

func annotation(key string) string { return "metadata.annotations[" + key + "]" }

// scheduling returns what the annotations ask for. What is not understood asks
// for nothing: a misspelt algorithm must not take a Service away.
func (c *serviceConversion) scheduling() service.Scheduling {
	all := c.in.Annotations
	algorithmKey, flagsKey := AnnotationScheduler, AnnotationSchedulerFlags
	_, algorithm := all[algorithmKey]
	_, flags := all[flagsKey]
	if !algorithm && !flags {
		algorithmKey, flagsKey = annotationRouterScheduler, annotationRouterFlags
	}
	out := service.Scheduling{Algorithm: c.intern.share(strings.TrimSpace(all[algorithmKey]))}
	if out.Algorithm != "" && !slices.Contains(service.Schedulers(), out.Algorithm) {
		c.add(reasonValue, annotation(algorithmKey), "%.80q is not a scheduler (%s); using the default",
			out.Algorithm, strings.Join(service.Schedulers(), ", "))
		return service.Scheduling{} // its flags mean nothing to another one
	}
	out.Flags = c.schedulerFlags(out.Algorithm, algorithmKey, flagsKey)
	return out
}

// schedulerFlags returns the flags that the annotation key asks for, sorted, or
// none if one of them is not a flag of algorithm: half of what was asked for may
// be worse than the default. The numbered flags are those of any algorithm, even
// of the default, whatever it is; the others begin with the name of theirs.
func (c *serviceConversion) schedulerFlags(algorithm, algorithmKey, key string) string {
	var out []string
	ok := true
	for flag := range strings.SplitSeq(c.in.Annotations[key], ",") {
		if flag = strings.TrimSpace(flag); flag == "" {
			continue
		}
		owner, _, _ := strings.Cut(flag, "-")
		switch {
		case !slices.Contains(service.SchedulerFlags(), flag):
			c.add(reasonValue, annotation(key), "%.80q is not a flag (%s); using none",
				flag, strings.Join(service.SchedulerFlags(), ", "))
			ok = false
		case owner == "flag" || owner == algorithm:
			out = append(out, flag)
		case algorithm == "":
			c.add(reasonValue, annotation(key), "%q needs %s: %s; using none", flag, algorithmKey, owner)
			ok = false
		default:
			c.add(reasonValue, annotation(key), "%q is a flag of %s, not of %s; using none", flag, owner, algorithm)
			ok = false
		}
	}
	if !ok {
		return ""
	}
	slices.Sort(out)
	return c.intern.share(strings.Join(slices.Compact(out), ","))
}

// weight returns the weight of the endpoints of the slice, 0 for the weight 1
// that they have anyway.
func (c *sliceConversion) weight() uint16 {
	s, ok := c.in.Annotations[AnnotationWeight]
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
	switch {
	case err != nil || n == 0:
		c.add(reasonValue, annotation(AnnotationWeight), "%.80q is not a whole number from 1 to 65535; using 1", s)
		return 0
	case n == 1:
		return 0
	}
	return uint16(n)
}
