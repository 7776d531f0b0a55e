package h1

import (
	"iter"
	"sync/atomic"
)

// Stats counts what Gates see. All of it only grows, but for Open. The zero Stats is ready.
type Stats struct {
	Connections atomic.Uint64
	Open        atomic.Int64
	Requests    atomic.Uint64 // that kept the rules
	Bytes       atomic.Uint64 // from clients
	Idle        atomic.Uint64 // connections that never asked anything
	Truncated   atomic.Uint64 // clients that left in the middle of a request
	refused     [rules]atomic.Uint64
}

func (s *Stats) refuse(e *Error) { s.refused[e.code].Add(1) }

// Refused yields every reason for which a request can be refused, with how many were.
func (s *Stats) Refused() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for _, e := range reasons() {
			if !yield(e.Reason, s.refused[e.code].Load()) {
				return
			}
		}
	}
}

func reasons() []*Error {
	return []*Error{
		errLine, errVersion, errMethod, errTarget, errConnect, errBareLF, errControl, errFold, errName,
		errSpaceColon, errHost, errHostMissing, errHostTwice, errLength, errLengthTwice, errBoth,
		errCoding, errCodingTwice, errCoding10, errNominated, errExpect, errLongLine, errLongHead,
		errManyFields, errChunk, errChunkSize, errChunkExt, errTrailer, errLongTrailer, errTLS,
		errSlowHead, errSlowBody, errStatusLine, errUpgrade,
	}
}
