package h1

import (
	"fmt"
	"net/http"
)

// An Error is a rule of the wire that the other side has broken.
type Error struct {
	// Status is what a client is told that has broken the rule. If a backend has, the client is told 502.
	Status int
	// Reason is a word for metrics and access logs; Stats.Refused has all of them.
	Reason string
	code   int
}

// Error names the rule.
func (e *Error) Error() string {
	return fmt.Sprintf("http/1: %s (%d)", e.Reason, e.Status)
}

// Timeout reports whether the other side was too slow rather than wrong.
func (e *Error) Timeout() bool { return e.Status == http.StatusRequestTimeout }

// The rules. They are values, so that refusing costs nothing; nobody changes them.
var (
	errLine        = rule(1, 400, "request-line")
	errVersion     = rule(2, 505, "version")
	errMethod      = rule(3, 400, "method")
	errTarget      = rule(4, 400, "target")
	errConnect     = rule(5, 405, "connect")
	errBareLF      = rule(6, 400, "bare-lf")
	errControl     = rule(7, 400, "control-byte")
	errFold        = rule(8, 400, "folded-field")
	errName        = rule(9, 400, "field-name")
	errSpaceColon  = rule(10, 400, "space-before-colon")
	errHost        = rule(11, 400, "host")
	errHostMissing = rule(12, 400, "host-missing")
	errHostTwice   = rule(13, 400, "host-repeated")
	errLength      = rule(14, 400, "content-length")
	errLengthTwice = rule(15, 400, "content-length-repeated")
	errBoth        = rule(16, 400, "length-and-coding")
	errCoding      = rule(17, 501, "transfer-coding")
	errCodingTwice = rule(18, 400, "transfer-coding-repeated")
	errCoding10    = rule(19, 400, "transfer-coding-http10")
	errNominated   = rule(20, 400, "connection-names")
	errExpect      = rule(21, 417, "expectation")
	errLongLine    = rule(22, 414, "long-target")
	errLongHead    = rule(23, 431, "long-head")
	errManyFields  = rule(24, 431, "many-fields")
	errChunk       = rule(25, 400, "chunk")
	errChunkSize   = rule(26, 400, "chunk-size")
	errChunkExt    = rule(27, 400, "chunk-extension")
	errTrailer     = rule(28, 400, "trailer")
	errLongTrailer = rule(29, 431, "long-trailer")
	errTLS         = rule(30, 400, "tls-on-plain-port")
	errSlowHead    = rule(31, 408, "slow-head")
	errSlowBody    = rule(32, 408, "slow-body")
	errStatusLine  = rule(33, 400, "status-line")
	errUpgrade     = rule(34, 400, "upgrade-with-body")
)

const rules = 35 // one more than the last code

func rule(code, status int, reason string) *Error {
	return &Error{Status: status, Reason: reason, code: code}
}

// ErrInterrupted is what a body's Read returns after Request.Interrupt.
var ErrInterrupted = fmt.Errorf("http/1: reading the request was interrupted")
