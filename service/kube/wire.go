package kube

import (
	"errors"
	"fmt"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// errWireType is a field that is there in another shape than the API gives it.
var errWireType = errors.New("wrong wire type")

// A message is read field by field. Call next until it returns false, then look
// at err. Fields nobody asks for are skipped.
type message struct {
	rest  []byte
	num   protowire.Number
	typ   protowire.Type
	value []byte // of a field of bytes
	n     uint64 // of a varint
	err   error
}

// next goes to the next field, and reports whether there is one.
func (m *message) next() bool {
	if m.err != nil || len(m.rest) == 0 {
		return false
	}
	num, typ, n := protowire.ConsumeTag(m.rest)
	if n < 0 {
		m.err = protowire.ParseError(n)
		return false
	}
	rest := m.rest[n:]
	switch typ {
	case protowire.BytesType:
		m.value, n = protowire.ConsumeBytes(rest)
	case protowire.VarintType:
		m.n, n = protowire.ConsumeVarint(rest)
	default:
		n = protowire.ConsumeFieldValue(num, typ, rest)
	}
	if n < 0 {
		m.err = fmt.Errorf("field %d: %w", num, protowire.ParseError(n))
		return false
	}
	m.num, m.typ, m.rest = num, typ, rest[n:]
	return true
}

// bytes returns the field if it is one of bytes.
func (m *message) bytes() []byte {
	if m.typ != protowire.BytesType {
		m.wrong()
		return nil
	}
	return m.value
}

// text returns the field as a string that lasts no longer than the message.
func (m *message) text() string {
	b := m.bytes()
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// int32 returns the field if it is a number. Like the API's own decoder it
// ignores what does not fit.
func (m *message) int32() int32 {
	if m.typ != protowire.VarintType {
		m.wrong()
	}
	return int32(m.n)
}

// bool returns the field if it is a number.
func (m *message) bool() bool { return m.int32() != 0 || m.n != 0 }

// sub reads the field, a message, with f.
func (m *message) sub(f func(message) error) {
	if b := m.bytes(); m.err == nil {
		if err := f(message{rest: b}); err != nil {
			m.err = fmt.Errorf("field %d: %w", m.num, err)
		}
	}
}

func (m *message) wrong() {
	if m.err == nil {
		m.err = fmt.Errorf("field %d: %w", m.num, errWireType)
	}
}

// pair returns a key and its value, as protobuf has maps.
func (m message) pair() (key, value string, err error) {
	for m.next() {
		switch m.num {
		case 1:
			key = m.text()
		case 2:
			value = m.text()
		}
	}
	return key, value, m.err
}
