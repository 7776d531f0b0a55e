package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

// TestBatch compares two messages with what linux/netlink.h wants, byte by byte.
func TestBatch(t *testing.T) {
	var b batch
	b.begin(4, 0x1234, unix.NLM_F_EXCL, refused)
	at := b.nest(7 | unix.NLA_F_NESTED)
	b.u8(1, 0xab)
	b.big16(2|unix.NLA_F_NET_BYTEORDER, 443)
	b.close(at)
	b.end()
	b.begin(5, 0x1235, 0, refused)
	b.text(3, "kube")
	b.end()
	b.flag(unix.NLM_F_ACK)
	b.number(70)
	native := binary.NativeEndian
	var want []byte
	header := func(length uint32, typ, flags uint16, seq uint32) {
		want = native.AppendUint32(want, length)
		want = native.AppendUint16(want, typ)
		want = native.AppendUint16(want, flags)
		want = native.AppendUint32(want, seq)
		want = native.AppendUint32(want, 0)
	}
	attr := func(length, typ uint16, padded ...byte) {
		want = native.AppendUint16(want, length)
		want = native.AppendUint16(want, typ)
		want = append(want, padded...)
	}
	header(36, 0x1234, unix.NLM_F_REQUEST|unix.NLM_F_EXCL, 70)
	attr(20, 0x8007)
	attr(5, 1, 0xab, 0, 0, 0)
	attr(6, 0x4002, 1, 0xbb, 0, 0)
	header(28, 0x1235, unix.NLM_F_REQUEST|unix.NLM_F_ACK, 71)
	attr(9, 3, 'k', 'u', 'b', 'e', 0, 0, 0, 0)
	if !bytes.Equal(b.buf, want) {
		t.Errorf("got  % x\nwant % x", b.buf, want)
	}
	if d := cmp.Diff([]int{b.msgs[0].op, b.msgs[1].op}, []int{4, 5}); d != "" {
		t.Error(d)
	}
}

// TestReadBack encodes what we send and reads it as what the kernel sends, which
// is written the same way.
func TestReadBack(t *testing.T) {
	for _, addr := range []string{"10.96.0.1:443", "[fd00:10:96::1]:443"} {
		key := serverKey(service.SCTP, addr)
		s := Server{"mh", Persistent | Sched2, 3 * time.Hour}
		var b batch
		b.server(0, 30, ipvsNewService, key, &s)
		m, rest, err := nextMessage(b.buf)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%v, %d bytes left", err, len(rest))
		}
		gotKey, got, ok := readServer(m)
		if !ok || gotKey != key || got != s {
			t.Errorf("%s: got %v %v %v, want %v %v", addr, gotKey, got, ok, key, s)
		}
	}
}

func TestSetError(t *testing.T) {
	for _, c := range []struct {
		meaning   verdict
		got, want error
	}{
		{hashError, hashError(4352), ErrSetFull},
		{setError, setError(4352), unix.EINVAL},
		{setError, setError(4100), unix.EBUSY},
		{setError, setError(4108), unix.EBUSY},
		{setError, setError(4101), unix.ENOENT},
		{setError, setError(4103), unix.EEXIST},
		{setError, setError(4099), unix.ENOSPC},
		{setError, setError(4098), unix.EOPNOTSUPP},
		{setError, setError(unix.ENOENT), unix.ENOENT},
		{refused, unless(unix.ESRCH)(unix.ESRCH), nil},
		{refused, unless(unix.ESRCH)(unix.ENOENT), unix.ENOENT},
	} {
		if c.got != c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}

// FuzzNextMessage cuts anything into messages and attributes and reads them all
// ways; nothing may go out of bounds.
func FuzzNextMessage(f *testing.F) {
	var b batch
	b.server(0, 30, ipvsNewService, serverKey(service.TCP, "10.96.0.1:443"), &Server{Scheduler: "rr"})
	b.element(0, setAdd, "FL4-A", HashIPPortNet, Element{
		Addr: netip.MustParseAddr("10.96.0.1"), Net: netip.MustParsePrefix("10.0.0.0/8"),
	}, refused)
	b.rule(0, unix.RTM_NEWRULE, 0, Rule{Table: 17996})
	f.Add(b.buf)
	f.Fuzz(func(t *testing.T, text []byte) {
		w := watcher{device: "kube-ipvs0", table: 17996}
		w.ours(text)
		for len(text) > 0 {
			m, rest, err := nextMessage(text)
			if err != nil {
				if !errors.Is(err, errMalformed) {
					t.Error(err)
				}
				return
			}
			if len(rest) >= len(text) {
				t.Fatal("no progress")
			}
			text = rest
			m.errno()
			readServer(m)
			readDest(m, unix.AF_INET6)
			readSet(m)
			readElement(m.data)
			readRoute(m, unix.AF_INET)
			readRule(m, service.IPv4)
			if len(m.data) >= unix.SizeofIfAddrmsg {
				readAddr(m)
			}
		}
	})
}

// TestLinuxWithoutIPVS is for kernels that have none: reading finds nothing, and
// writing says why.
func TestLinuxWithoutIPVS(t *testing.T) {
	l, err := Open()
	if err != nil {
		t.Skipf("no netlink: %v", err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := l.ipvsFamily(t.Context()); !errors.Is(err, errNoIPVS) {
		t.Skipf("the kernel has IPVS, or does not say: %v", err)
	}
	key := serverKey(service.TCP, "10.96.0.1:443")
	servers, err := l.Servers(t.Context())
	if len(servers) != 0 || err != nil {
		t.Errorf("Servers: got %v, %v", servers, err)
	}
	one, err := l.Server(t.Context(), key)
	if one != nil || err != nil {
		t.Errorf("Server: got %v, %v", one, err)
	}
	if _, err := l.Apply(t.Context(), []Op{DelServer{key}}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Apply: got %v", err)
	}
	if _, err := l.HasScheduler("rr"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("HasScheduler: got %v", err)
	}
}

// TestLinuxSmallBuffer has every message of large batches fail with the receive
// buffer that processes get who may not force a larger one.
func TestLinuxSmallBuffer(t *testing.T) {
	l := newLinux(t)
	raw, err := l.ipset.file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	if cerr := raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 32<<10); err == nil {
			size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		}
	}); errors.Join(cerr, err) != nil {
		t.Fatal(cerr, err)
	}
	l.ipset.maxMsgs = size / perError
	var ops []Op
	for i := range 5000 {
		ops = append(ops, AddElem{"FL4-NONE", HashIPPort, Element{Addr: netip.MustParseAddr("10.96.0.1"), Port: uint16(i)}})
	}
	refused, err := l.Apply(t.Context(), ops)
	if err != nil || len(refused) != len(ops) {
		t.Fatalf("%d of %d refused, %v", len(refused), len(ops), err)
	}
	for i, e := range refused {
		if e.Index != i || e.Err != syscall.ENOENT {
			t.Fatalf("got %v at %d, want ENOENT at %d", e.Err, e.Index, i)
		}
	}
}
