package nft_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-project/fairlead/iptables/xt"
)

// A world is a network namespace of its own.
type world struct{ calls chan func() }

// newWorld returns a world that is there until the test ends.
func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	w := &world{make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		made <- err
		if err == nil {
			for call := range w.calls {
				call()
			}
		}
	}()
	if err := <-made; errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		t.Skipf("this kernel gives us no network namespace: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(w.calls) })
	return w
}

// do calls f in w, also what it runs. f must not call t.Fatal.
func (w *world) do(f func()) {
	done := make(chan struct{})
	w.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// inside is what f returns in w.
func inside[T any](t *testing.T, w *world, f func() (T, error)) T {
	t.Helper()
	var out T
	var err error
	w.do(func() { out, err = f() })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Messages of nf_tables that list something.
const (
	getTable = 1
	getChain = 4
	getRule  = 7
)

var host = binary.NativeEndian

// dump is everything that nf_tables has of a family, without handles, places and counts,
// as a line for each table and chain and rule: tables and chains sorted, rules in
// their order.
func dump(f xt.Family) ([]string, error) {
	var out []string
	err := list(f, getTable, func(a []attribute) { out = append(out, "table "+show(a, 3, 4)) })
	err = errors.Join(err, list(f, getChain, func(a []attribute) { out = append(out, "chain "+show(a, 2, 6, 8)) }))
	err = errors.Join(err, list(f, getRule, func(a []attribute) {
		line := "rule " + show(a, 3, 4, 6)
		for _, x := range a {
			if x.kind == 4 {
				line += expressions(x.data)
			}
		}
		out = append(out, line)
	}))
	// A table and a chain come first in the line of a rule, so that a stable sort by
	// them leaves the rules of a chain in their order.
	slices.SortStableFunc(out, func(a, b string) int { return strings.Compare(place(a), place(b)) })
	return out, err
}

func place(line string) string {
	if !strings.HasPrefix(line, "rule ") {
		return line
	}
	parts := strings.SplitN(line, " ", 4)
	return strings.Join(parts[:3], " ")
}

// list calls each with the attributes of each message that the kernel answers with.
func list(f xt.Family, typ uint16, each func([]attribute)) error {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	ask := []byte{16: map[xt.Family]byte{xt.IPv4: syscall.AF_INET, xt.IPv6: syscall.AF_INET6}[f], 19: 0}
	host.PutUint32(ask, uint32(len(ask)))
	host.PutUint16(ask[4:], 10<<8|typ)
	host.PutUint16(ask[6:], syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
	if err := syscall.Sendto(fd, ask, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<17)
	for {
		n, _, err := syscall.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case syscall.NLMSG_DONE:
				return nil
			case syscall.NLMSG_ERROR:
				return syscall.Errno(-int32(host.Uint32(m.Data)))
			}
			each(attributes(m.Data[4:]))
		}
	}
}

type attribute struct {
	kind uint16
	data []byte
}

func attributes(b []byte) (out []attribute) {
	for len(b) >= 4 {
		size := int(host.Uint16(b))
		out = append(out, attribute{host.Uint16(b[2:]) & 0x3fff, b[4:size]})
		b = b[min(len(b), (size+3)&^3):]
	}
	return out
}

// show prints attributes, without those of some kinds. Text stays text.
func show(list []attribute, without ...uint16) string {
	var b strings.Builder
	for _, a := range list {
		switch text := strings.TrimRight(string(a.data), "\x00"); {
		case slices.Contains(without, a.kind):
		case a.kind <= 3 && len(text) > 1 && strings.Trim(text, word) == "":
			fmt.Fprintf(&b, "%s ", text)
		default:
			fmt.Fprintf(&b, "%d:%x ", a.kind, a.data)
		}
	}
	return b.String()
}

const word = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// expressions prints those of a rule, without what a counter has counted.
func expressions(b []byte) string {
	var out strings.Builder
	for _, e := range attributes(b) {
		parts := attributes(e.data)
		name := strings.TrimRight(string(parts[0].data), "\x00")
		if name == "counter" {
			out.WriteString("counter ")
			continue
		}
		fmt.Fprintf(&out, "%s %x ", name, parts[1].data)
	}
	return out.String()
}

// saved is what the tool prints of a family, without comments and counts.
func saved(t *testing.T, f xt.Family) (string, error) {
	name := map[xt.Family]string{xt.IPv4: "iptables-nft-save", xt.IPv6: "ip6tables-nft-save"}[f]
	out, err := exec.CommandContext(t.Context(), name).CombinedOutput()
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if strings.HasPrefix(line, ":") {
			line, _, _ = strings.Cut(line, " [")
			line += "\n"
		}
		b.WriteString(line)
	}
	return b.String(), err
}
