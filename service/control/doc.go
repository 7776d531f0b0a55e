// Package control is everything that waits: the loop that turns changes into
// syncs, the health it reports, and the metrics it keeps.
//
// One goroutine, [Loop.Run], owns the [service.Store] and calls every
// [service.Dataplane]. Sources hand it changes as functions; health servers and
// metrics read what it leaves behind for them. Nothing reaches a dataplane
// before every source has said that its list is complete: half a list would
// take Services away.
//
// # When it syncs
//
//	after a calm, a change  at once, after a millisecond in which what belongs together arrives
//	busy for a while        later: of the time, at most DutyCycle is spent syncing, but see MinSyncPeriod
//	no longer busy          after a calm of 300 ms or four syncs, with what has waited
//	after an error          after 100 ms, then twice as long each time up to SyncPeriod; a change may come sooner
//	every SyncPeriod        an audit: has somebody else changed the kernel?
//	by Report.Again         an audit when a dataplane asks for one
//	by Loop.AuditSoon       an audit when somebody has reason to suspect a change, at most five a second
//
// A sync costs what changed, so a fixed interval would be too long for a small
// cluster and too short for a large one: the loop paces itself by what the last
// sync cost.
//
// # What it says
//
// A loop in a steady state logs nothing. A failure is logged when it begins,
// when it becomes another one, and when it is over. Problems of single objects
// are told once, until they have gone away and come back.
package control
