package status

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxListed is how many deviations and problems the text shows; the JSON has all.
const maxListed = 10

// WriteText writes d for people: a line for each fact, times as they were and as
// ages, and nothing about what is as it should be.
func WriteText(w io.Writer, d *Document) error {
	t := &text{now: d.Now}
	t.row("fairlead", "%s on %s, pid %d, running for %s", d.Version, d.Node, d.PID, age(d.Now.Sub(d.Started)))
	t.row("mode", "%s: %s", d.Mode, d.ModeReason)
	for _, tool := range d.Tools {
		t.row("", "%s", tool)
	}
	t.row("source", "%s", d.Source)
	t.row("families", "%s", strings.Join(d.Families, ", "))
	for _, f := range slices.Sorted(maps.Keys(d.Unserved)) {
		t.row("", "%s is not served: %s", f, d.Unserved[f])
	}
	t.health(d)
	t.counts(d)
	for i := range d.Dataplanes {
		t.plane(&d.Dataplanes[i])
	}
	if d.L7 != nil {
		t.l7(d.L7)
	}
	t.list("problems", d.Problems)
	t.notes(d.Notes)
	_, err := io.WriteString(w, t.String())
	return err
}

// text gathers lines. A row has a name, or belongs to the one above.
type text struct {
	strings.Builder
	now time.Time
}

func (t *text) row(name, format string, args ...any) {
	line := fmt.Sprintf("%-11s%s", name, fmt.Sprintf(format, args...))
	t.WriteString(strings.TrimRight(strings.ReplaceAll(line, "\n", "; "), " ") + "\n")
}

// at says when something was.
func (t *text) at(when time.Time) string {
	return fmt.Sprintf("%s, %s ago", when.UTC().Format(time.RFC3339), age(t.now.Sub(when)))
}

// age is a duration as precise as people want it.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func (t *text) health(d *Document) {
	health := "healthy"
	if !d.Healthy {
		health = "NOT healthy: changes have been waiting for too long"
	}
	if !d.Eligible {
		health += "; load balancers are told to use other nodes, by the Node object"
	}
	t.row("health", "%s", health)
	if d.Revision == 0 {
		t.row("in force", "nothing yet from this process; what was in force before it still is")
		return
	}
	t.row("in force", "revision %d", d.Revision)
}

func (t *text) counts(d *Document) {
	var ports []string
	for _, f := range slices.Sorted(maps.Keys(d.Counts.Ports)) {
		ports = append(ports, fmt.Sprintf("%d %s", d.Counts.Ports[f], f))
	}
	c := d.Counts
	t.row("services", "%d; ports: %s; addresses with a port: %d; endpoints: %d",
		c.Services, cmp.Or(strings.Join(ports, ", "), "0"), c.Addresses, c.Endpoints)
	var objects []string
	for _, o := range d.Objects {
		objects = append(objects, fmt.Sprintf("%s: %d", o.Name, o.Number))
	}
	if len(objects) > 0 {
		t.row("kernel", "%s", strings.Join(objects, "; "))
	}
}

// plane writes what there is to say of a dataplane.
func (t *text) plane(p *Dataplane) {
	switch {
	case p.LastSync == nil:
		t.row(p.Name, "not synced yet")
	default:
		t.row(p.Name, "synced %s; took %s; %s", t.at(p.LastSync.At), p.LastSync.Took.Round(10*time.Microsecond), work(p.LastSync))
	}
	if p.Failing != nil {
		t.row("", "FAILING since %s, %s: %s of revision %d: %s",
			t.at(p.Failing.Since), times(p.Failing.Times), p.Failing.What, p.Attempted, p.Failing.Error)
	} else if p.LastError != nil {
		t.row("", "works again; last error %s: %s: %s", t.at(p.LastError.Last), p.LastError.What, p.LastError.Error)
	}
	if p.LastAudit != nil {
		found := "found nothing changed by others"
		if p.LastAudit.Repaired {
			found = "REPAIRED what others had changed: " + work(p.LastAudit)
		}
		t.row("", "audited %s; took %s; %s", t.at(p.LastAudit.At), p.LastAudit.Took.Round(10*time.Microsecond), found)
	}
	t.row("", "since start: %d syncs, %d failures, %d repairs", p.Syncs, p.Failures, p.Repairs)
	var list []string
	for _, d := range p.Deviations {
		line := d.Port + ": " + d.Reason
		if d.Here {
			line += " (on this node)"
		}
		list = append(list, line)
	}
	if len(list) > 0 {
		t.list("deviations", list)
	}
}

func work(c *Call) string {
	s := fmt.Sprintf("%d added, %d changed, %d removed", c.Added, c.Changed, c.Removed)
	if c.Resynced {
		s += ", kernel read first"
	}
	return s
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func (t *text) l7(l *L7) {
	if l.PID == 0 {
		t.row("l7", "NOT running since %s; started %s", t.at(l.Since), times(l.Starts))
		return
	}
	t.row("l7", "runs as pid %d since %s; started %s", l.PID, t.at(l.Since), times(l.Starts))
}

func (t *text) list(name string, list []string) {
	if len(list) == 0 {
		t.row(name, "none")
	}
	for i, line := range list {
		if i == maxListed {
			t.row("", "and %d more; see them with -o json", len(list)-i)
			break
		}
		t.row(name, "%s", line)
		name = ""
	}
}

func (t *text) notes(notes []Note) {
	if len(notes) == 0 {
		t.row("log", "no warnings or errors")
	}
	name := "log"
	for _, n := range notes {
		line := fmt.Sprintf("%s %s %s", n.At.UTC().Format(time.RFC3339), n.Level, n.Text)
		if n.Times > 1 {
			line += fmt.Sprintf(" (%s)", times(n.Times))
		}
		t.row(name, "%s", line)
		name = ""
	}
}
