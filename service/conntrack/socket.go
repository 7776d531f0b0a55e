package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize holds any answer: the kernel fills at most 32 KiB at a time.
	bufferSize = 64 << 10

	// answerTimeout limits the wait for the kernel. It answers from memory, so
	// only a defect makes it take this long, and hanging would hide it.
	answerTimeout = 30 * time.Second

	headerLen = unix.NLMSG_HDRLEN
)

// errInterrupted says that the table was rebuilt while it was being listed, so
// that entries may be missing from the list.
var errInterrupted = errors.New("listing interrupted by a change of the table")

// A socket is a netfilter netlink socket with the messages being collected for
// the next send. It is not safe for concurrent use.
type socket struct {
	fd     int
	seq    uint32 // of the last message
	out    []byte
	first  uint32 // sequence number of the first message in out
	in     []byte
	starts int // where the message being built begins in out
}

// openSocket opens a socket in the network namespace of the calling thread.
func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink socket: %w", err)
	}
	s := &socket{fd: fd, in: make([]byte, bufferSize)}
	tv := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up netfilter netlink socket: %w", err), s.close())
	}
	return s, nil
}

func (s *socket) close() error { return unix.Close(s.fd) }

// begin starts a message; what is appended to s.out until end is its payload.
func (s *socket) begin(kind, flags uint16) {
	s.seq++
	if len(s.out) == 0 {
		s.first = s.seq
	}
	s.starts = len(s.out)
	s.out = append(s.out, 0, 0, 0, 0) // length, set by end
	s.out = binary.NativeEndian.AppendUint16(s.out, kind)
	s.out = binary.NativeEndian.AppendUint16(s.out, flags|unix.NLM_F_REQUEST)
	s.out = binary.NativeEndian.AppendUint32(s.out, s.seq)
	s.out = binary.NativeEndian.AppendUint32(s.out, 0) // port: the kernel fills it in
}

func (s *socket) end() {
	binary.NativeEndian.PutUint32(s.out[s.starts:], uint32(len(s.out)-s.starts))
}

// pending is the number of messages in s.out.
func (s *socket) pending() int {
	if len(s.out) == 0 {
		return 0
	}
	return int(s.seq - s.first + 1)
}

func (s *socket) send() error {
	err := unix.Sendto(s.fd, s.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	s.out = s.out[:0]
	if err != nil {
		return fmt.Errorf("send to netfilter: %w", err)
	}
	return nil
}

// dump sends the single message in s.out and calls each with the payload of
// every answer, which is only valid during the call. It returns errInterrupted
// if entries may be missing.
func (s *socket) dump(each func(payload []byte) error) error {
	if err := s.send(); err != nil {
		return err
	}
	var failed error
	interrupted := false
	for done := false; !done; {
		err := s.receive(func(h header, payload []byte) {
			if h.seq != s.seq || done {
				return // an answer to a request given up before
			}
			interrupted = interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case h.kind == unix.NLMSG_DONE || h.kind == unix.NLMSG_ERROR:
				done = true
				failed = errors.Join(failed, errnoOf(payload))
			case failed == nil:
				failed = each(payload)
			}
		})
		if err != nil {
			return err
		}
	}
	if failed == nil && interrupted {
		return errInterrupted
	}
	return failed
}

// exchange sends the messages in s.out, each of which must ask for an
// acknowledgement, and calls each with the result of every one of them.
func (s *socket) exchange(each func(result error)) error {
	waiting, first := s.pending(), s.first
	if waiting == 0 {
		return nil
	}
	if err := s.send(); err != nil {
		return err
	}
	for waiting > 0 {
		err := s.receive(func(h header, payload []byte) {
			if h.kind == unix.NLMSG_ERROR && h.seq-first <= s.seq-first {
				waiting--
				each(errnoOf(payload))
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// A header is what counts of a netlink message header.
type header struct {
	kind, flags uint16
	seq         uint32
}

// receive waits for one datagram and calls each with its messages.
func (s *socket) receive(each func(h header, payload []byte)) error {
	n, from, err := unix.Recvfrom(s.fd, s.in, 0)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil // a signal; the caller waits again
	case err != nil:
		return fmt.Errorf("receive from netfilter: %w", err)
	}
	if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
		return nil // not the kernel: any process may send to a netlink socket
	}
	for b := s.in[:n]; len(b) >= headerLen; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < headerLen || size > len(b) {
			return fmt.Errorf("receive from netfilter: message of %d bytes in %d", size, len(b))
		}
		each(header{
			kind:  binary.NativeEndian.Uint16(b[4:]),
			flags: binary.NativeEndian.Uint16(b[6:]),
			seq:   binary.NativeEndian.Uint32(b[8:]),
		}, b[headerLen:size])
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// errnoOf returns the error in the payload of an NLMSG_ERROR or NLMSG_DONE, nil
// for success.
func errnoOf(payload []byte) error {
	if len(payload) < 4 {
		return nil
	}
	if e := int32(binary.NativeEndian.Uint32(payload)); e < 0 {
		return unix.Errno(-e)
	}
	return nil
}

func align(n int) int { return (n + 3) &^ 3 }
