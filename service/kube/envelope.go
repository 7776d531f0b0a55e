package kube

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// magic is what every answer in protobuf begins with, before a message of type
// k8s.io/apimachinery/pkg/runtime.Unknown.
const magic = "k8s\x00"

// maxObject bounds an object of a list. etcd holds none that is larger than a
// tenth of it.
const maxObject = 16 << 20

// errTooLarge is an object that no API server has.
var errTooLarge = errors.New("object is too large")

// IsProtobuf reports whether an answer that begins like this is in protobuf.
func IsProtobuf(answer []byte) bool {
	return len(answer) >= len(magic) && string(answer[:len(magic)]) == magic
}

// Unwrap returns the message in an answer in protobuf, which is part of answer.
// It reports false if there is none of the given type.
func Unwrap(answer []byte, want metav1.TypeMeta) ([]byte, bool) {
	if !IsProtobuf(answer) {
		return nil, false
	}
	var raw []byte
	known, plain := false, true
	m := message{rest: answer[len(magic):]}
	for m.next() {
		switch m.num {
		case 1:
			known = typeIs(m.bytes(), want)
		case 2:
			raw = m.bytes()
		case 3:
			plain = len(m.bytes()) == 0
		}
	}
	return raw, m.err == nil && known && plain
}

// typeIs reports whether raw, a message of type runtime.TypeMeta, is want.
func typeIs(raw []byte, want metav1.TypeMeta) bool {
	var version, kind string
	m := message{rest: raw}
	for m.next() {
		switch m.num {
		case 1:
			version = m.text()
		case 2:
			kind = m.text()
		}
	}
	return m.err == nil && version == want.APIVersion && kind == want.Kind
}

// Event returns the type and the object in raw, a message of type WatchEvent. Both
// are part of raw.
func Event(raw []byte) (kind, object []byte, err error) {
	m := message{rest: raw}
	for m.next() {
		switch m.num {
		case 1:
			kind = m.bytes()
		case 2: // a RawExtension
			in := message{rest: m.bytes()}
			for in.next() {
				if in.num == 1 {
					object = in.bytes()
				}
			}
			if in.err != nil {
				return nil, nil, in.err
			}
		}
	}
	return kind, object, m.err
}

// List reads a list in protobuf of objects of the given type, and calls item with
// the message of each. The message is overwritten after the call. It returns
// what the list says about itself, as much as a client needs to go on: its
// resource version, and where the rest of it is.
func List(r *bufio.Reader, want metav1.TypeMeta, item func(raw []byte) error) (metav1.ListMeta, error) {
	var meta metav1.ListMeta
	l := lister{r: r, left: int64(^uint64(0) >> 1), want: want, meta: &meta, item: item}
	if start, err := l.read(len(magic)); err != nil || !IsProtobuf(start) {
		return meta, errors.Join(errors.New("this is no list in protobuf"), err)
	}
	known := false
	for {
		num, typ, err := l.tag()
		switch {
		case err == io.EOF:
			return meta, nil
		case err != nil:
			return meta, err
		case num == 1 && typ == protowire.BytesType:
			raw, err := l.field()
			if err != nil {
				return meta, err
			}
			if known = typeIs(raw, metav1.TypeMeta{APIVersion: want.APIVersion, Kind: want.Kind + "List"}); !known {
				return meta, fmt.Errorf("this is another list than one of %s of %s", want.Kind, want.APIVersion)
			}
		case num == 2 && typ == protowire.BytesType && known:
			if err := l.items(); err != nil {
				return meta, err
			}
		default:
			if err := l.skip(typ); err != nil {
				return meta, err
			}
		}
	}
}

// A lister reads a message that is too large to hold. left is how many bytes of it
// are to come.
type lister struct {
	r    *bufio.Reader
	left int64
	buf  []byte
	want metav1.TypeMeta
	meta *metav1.ListMeta
	item func([]byte) error
}

// items reads a field that is the list itself.
func (l *lister) items() error {
	n, err := l.length()
	if err != nil {
		return err
	}
	outer := l.left - n
	for l.left = n; l.left > 0; {
		num, typ, err := l.tag()
		if err != nil {
			return unexpected(err)
		}
		if typ != protowire.BytesType || num > 2 {
			if err := l.skip(typ); err != nil {
				return err
			}
			continue
		}
		raw, err := l.field()
		if err != nil {
			return err
		}
		if num == 1 {
			err = l.readMeta(message{rest: raw})
		} else {
			err = l.item(raw)
		}
		if err != nil {
			return err
		}
	}
	l.left = outer
	return nil
}

// readMeta reads a ListMeta.
func (l *lister) readMeta(m message) error {
	for m.next() {
		switch m.num {
		case 2:
			l.meta.ResourceVersion = string(m.bytes())
		case 3:
			l.meta.Continue = string(m.bytes())
		}
	}
	return m.err
}

// ReadByte is for reading numbers.
func (l *lister) ReadByte() (byte, error) {
	if l.left <= 0 {
		return 0, io.EOF
	}
	l.left--
	return l.r.ReadByte()
}

// tag reads the beginning of a field. The error is io.EOF if there is none.
func (l *lister) tag() (protowire.Number, protowire.Type, error) {
	v, err := binary.ReadUvarint(l)
	if err != nil {
		return 0, 0, err
	}
	num, typ := protowire.DecodeTag(v)
	if num < protowire.MinValidNumber {
		return 0, 0, fmt.Errorf("%d is not the number of a field", num)
	}
	return num, typ, nil
}

// length reads the length of a field.
func (l *lister) length() (int64, error) {
	n, err := binary.ReadUvarint(l)
	if err != nil {
		return 0, unexpected(err)
	}
	if n > uint64(l.left) {
		return 0, io.ErrUnexpectedEOF
	}
	return int64(n), nil
}

// field reads a field of bytes, which last until the next one.
func (l *lister) field() ([]byte, error) {
	n, err := l.length()
	if err != nil {
		return nil, err
	}
	if n > maxObject {
		return nil, fmt.Errorf("%w: %d bytes", errTooLarge, n)
	}
	return l.read(int(n))
}

func (l *lister) read(n int) ([]byte, error) {
	if cap(l.buf) < n {
		l.buf = make([]byte, n+n/2)
	}
	l.left -= int64(n)
	_, err := io.ReadFull(l.r, l.buf[:n])
	return l.buf[:n], unexpected(err)
}

// skip reads over a field.
func (l *lister) skip(typ protowire.Type) error {
	n, err := int64(0), error(nil)
	switch typ {
	case protowire.VarintType:
		_, err = binary.ReadUvarint(l)
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	case protowire.BytesType:
		n, err = l.length()
	default:
		return errWireType
	}
	if err != nil {
		return unexpected(err)
	}
	l.left -= n
	_, err = io.CopyN(io.Discard, l.r, n)
	return unexpected(err)
}

// unexpected returns err, where there must be more.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
