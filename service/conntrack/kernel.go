package conntrack

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/fairlead-project/fairlead/service"
)

const (
	// listings is how often Purge lists the table if listings are interrupted.
	listings = 5

	// batch is the number of deletions on their way to the kernel. Their
	// acknowledgements must fit the socket's receive buffer.
	batch = 64
)

// A Kernel is the connection-tracking table of one network namespace. It is not
// safe for concurrent use.
type Kernel struct {
	list, del *socket
	plain     bool // the kernel refused to filter by protocol
}

// Open returns the table of the network namespace the calling thread is in. It
// stays with that namespace. Listing needs CAP_NET_ADMIN, which only shows when
// Purge is called.
func Open() (*Kernel, error) {
	list, err := openSocket()
	if err != nil {
		return nil, err
	}
	del, err := openSocket()
	if err != nil {
		return nil, errors.Join(err, list.close())
	}
	return &Kernel{list: list, del: del}, nil
}

// Close gives the sockets back.
func (k *Kernel) Close() error { return errors.Join(k.list.close(), k.del.close()) }

// Purge deletes the UDP entries of family f for which orphan returns true, and
// returns how many. An entry that went away by itself counts: the caller wanted
// it gone. Where the listing is interrupted by a change of the table, Purge tries
// again a few times and is content with what it found: the next Purge gets
// another chance. It deletes no more once ctx is done, and returns its error.
func (k *Kernel) Purge(ctx context.Context, f service.Family, orphan func(service.ConntrackFlow) bool) (int, error) {
	total := 0
	for range listings {
		n, whole, err := k.pass(ctx, f, orphan)
		total += n
		if err != nil {
			return total, fmt.Errorf("clean up %s connection tracking: %w", f, err)
		}
		if whole {
			break
		}
	}
	return total, nil
}

// pass lists the table once and deletes while it lists. Whole says that nothing
// interrupted the listing.
func (k *Kernel) pass(ctx context.Context, f service.Family, orphan func(service.ConntrackFlow) bool) (n int, whole bool, err error) {
	d := deletion{socket: k.del, family: f}
	each := func(payload []byte) error {
		e, ok := parse(payload)
		if !ok || !orphan(e.flow) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return d.add(e)
	}
	err = k.dump(f, each)
	if !k.plain && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		k.plain = true
		err = k.dump(f, each)
	}
	whole = !errors.Is(err, errInterrupted)
	if !whole {
		err = nil
	}
	err = errors.Join(err, d.flush())
	return d.count, whole, err
}

func (k *Kernel) dump(f service.Family, each func(payload []byte) error) error {
	s := k.list
	s.begin(msgGet, unix.NLM_F_DUMP)
	s.out = appendGen(s.out, f)
	if !k.plain {
		s.out = appendUDPOnly(s.out)
	}
	s.end()
	return s.dump(each)
}

// A deletion collects entries and deletes them in batches.
type deletion struct {
	socket *socket
	family service.Family
	count  int
}

func (d *deletion) add(e entry) error {
	d.socket.begin(msgDelete, unix.NLM_F_ACK)
	d.socket.out = e.appendKey(appendGen(d.socket.out, d.family))
	d.socket.end()
	if d.socket.pending() < batch {
		return nil
	}
	return d.flush()
}

func (d *deletion) flush() error {
	var failed error
	err := d.socket.exchange(func(result error) {
		switch {
		case result == nil || errors.Is(result, unix.ENOENT):
			d.count++
		case failed == nil: // one stands for all: they fail alike
			failed = fmt.Errorf("delete entry: %w", result)
		}
	})
	return errors.Join(err, failed)
}
