// Package route finds the rule that a request belongs to.
//
// A Table maps hosts to Hosts, and a Host maps paths to values of any type. Both
// are immutable: readers take no lock, and a change makes a new Table that shares all
// but the touched parts with the old one. There is one way to look something up, whatever
// the number of hosts or paths.
//
// What is looked up has to be canonical, or two spellings of one path could have different
// rules while a backend takes them for the same. Canonical makes paths so, ParseHost hosts, and
// what they return is also what is to be forwarded.
//
//	host, port, err := route.ParseHost(authority)     // bad: 400
//	h := table.Find(host)                           // nil: nobody serves it
//	path, err := route.Canonical(raw, h.Options())  // bad: 400
//	m, ok := h.Lookup(path)                         // m.Slash: redirect to path + "/"
//
// How paths match and which of several wins is told at NewHost, for each Dialect.
package route
