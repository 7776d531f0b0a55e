package relay

import "sync/atomic"

// Counters is what an Engine has done so far. Except for Active it only grows.
type Counters struct {
	Accepted uint64 // connections that got a Journey
	Refused  uint64 // connections that did not
	Active   int64  // connections at present, those that still look for an endpoint included
	Shed     uint64 // connections reset for want of descriptors or memory, or beyond MaxConns

	// Attempts to connect that failed, by reason.
	FailedRefused     uint64
	FailedUnreachable uint64
	FailedTimeout     uint64
	FailedOther       uint64

	Retries   uint64 // attempts after a failed one
	Exhausted uint64 // connections for which no endpoint answered
	Aborted   uint64 // connections ended by a Handle
	Given     uint64 // connections that another Engine has now
	Taken     uint64 // connections that another Engine had before

	FromClient uint64 // bytes
	ToClient   uint64 // bytes
	Spliced    uint64 // bytes, both ways, that were not copied
}

// tally is what one worker counts. Only the worker writes it.
type tally struct {
	accepted, refused, shed              atomic.Uint64
	failRefused, failUnreachable         atomic.Uint64
	failTimeout, failOther               atomic.Uint64
	retries, exhausted, aborted, spliced atomic.Uint64
	given, taken                         atomic.Uint64
	moved                                [2]atomic.Uint64 // by the side it was read from
	active                               atomic.Int64
	_                                    [64]byte // nobody else's cache line
}

func (c *Counters) add(t *tally) {
	c.Accepted += t.accepted.Load()
	c.Refused += t.refused.Load()
	c.Active += t.active.Load()
	c.Shed += t.shed.Load()
	c.FailedRefused += t.failRefused.Load()
	c.FailedUnreachable += t.failUnreachable.Load()
	c.FailedTimeout += t.failTimeout.Load()
	c.FailedOther += t.failOther.Load()
	c.Retries += t.retries.Load()
	c.Exhausted += t.exhausted.Load()
	c.Aborted += t.aborted.Load()
	c.Given += t.given.Load()
	c.Taken += t.taken.Load()
	c.FromClient += t.moved[0].Load()
	c.ToClient += t.moved[1].Load()
	c.Spliced += t.spliced.Load()
}
