package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/fairlead-project/fairlead/ipvs/kernel"
	"github.com/fairlead-project/fairlead/service"
)

// Owned reads which virtual servers fairlead made, in this process or an earlier
// one; those that are gone may still be among them. It finds none where fairlead
// never ran.
func Owned(ctx context.Context, k kernel.Kernel) (map[kernel.ServerKey]bool, error) {
	out := make(map[kernel.ServerKey]bool)
	for _, f := range []service.Family{service.IPv4, service.IPv6} {
		elements, err := k.Elements(ctx, memberSet(f, 0))
		if errors.Is(err, syscall.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read which virtual servers are ours: %w", err)
		}
		for _, e := range elements {
			out[kernel.ServerKey{Addr: netip.AddrPortFrom(e.Addr, e.Port), Protocol: e.Protocol}] = true
		}
	}
	return out, nil
}

// A Watcher tells of changes of a device and a routing table: [kernel.Linux].
type Watcher interface {
	Watch(ctx context.Context, device string, table uint32, changed func()) error
}

// Watch calls changed when w tells of a change of our device, our routing table or
// the rules that lead there, also when it is we who change them, until ctx is done.
// See [kernel.Linux.Watch].
func Watch(ctx context.Context, w Watcher, changed func()) error {
	return w.Watch(ctx, deviceName, routeTable, changed)
}
