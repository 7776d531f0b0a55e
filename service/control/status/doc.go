// Package status is what a running fairlead tells about itself to the people on
// its node: what is in force, since when, what it cannot do and what went wrong.
//
// A [Book] takes notes while the process works: it stands between the loop and
// each dataplane, it sees what is logged as a warning or worse, and it is told of
// problems of objects. Nobody waits for it. Who asks gets a [Document], over a
// socket in the file system that only root and the user of the process may use:
// the file's mode says so, and both sides look at who the other one is.
//
//	Book.Observe   around a dataplane: syncs, audits, errors, deviations
//	Book.Handler   around the log: the last warnings and errors
//	Book.Objects   around the report function of a source: problems of objects
//	Book.Document  all of it, for one answer
//	Listen, Client the socket
package status
