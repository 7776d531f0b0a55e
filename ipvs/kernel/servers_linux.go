package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// procFile lists the virtual servers of the namespace of the calling thread, with
// their destinations. Netlink has no dump of the destinations of all servers;
// one dump per server takes many times as long.
const procFile = "/proc/thread-self/net/ip_vs"

// Servers implements Kernel. It reads the servers by netlink, where their flags
// and timeouts are, and all destinations from /proc. What the file does not have
// is asked for by netlink. Other programs may be at work, and the file is not to
// be trusted where several network namespaces have servers: at the end of each
// page the kernel counts how far it got among all of them, and goes on so far
// among ours (ip_vs_info_seq_next and ip_vs_info_array of ip_vs_ctl.c, Linux 6.1),
// so that some of ours are left out.
//
// In a kernel without IPVS there are no servers.
func (l *Linux) Servers(ctx context.Context) (map[ServerKey]*ServerState, error) {
	id, err := l.ipvsFamily(ctx)
	if errors.Is(err, errNoIPVS) {
		return map[ServerKey]*ServerState{}, nil
	}
	if err != nil {
		return nil, err
	}
	var b batch
	b.beginGeneric(0, id, ipvsGetService, refused)
	b.end()
	var servers map[ServerKey]*ServerState
	err = l.ipvs.dump(ctx, &b, func() { servers = map[ServerKey]*ServerState{} }, func(m message) {
		if key, s, ok := readServer(m); ok {
			servers[key] = &ServerState{Server: s}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list virtual servers: %w", err)
	}
	file, err := os.Open(procFile)
	if err != nil {
		return nil, fmt.Errorf("list destinations: %w", err)
	}
	defer file.Close()
	dests, err := parseProc(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", procFile, err)
	}
	for key, s := range servers {
		if list, ok := dests[key]; ok {
			s.Dests = sortDests(list)
			continue
		}
		one, err := l.Server(ctx, key)
		if err != nil {
			return nil, err
		}
		if one == nil {
			delete(servers, key)
		} else {
			servers[key] = one
		}
	}
	return servers, nil
}

// Server implements Kernel. In a kernel without IPVS there is none.
func (l *Linux) Server(ctx context.Context, key ServerKey) (*ServerState, error) {
	id, err := l.ipvsFamily(ctx)
	if errors.Is(err, errNoIPVS) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var b batch
	b.server(0, id, ipvsGetService, key, nil)
	var state *ServerState
	err = l.ipvs.get(ctx, &b, func(m message) {
		if k, s, ok := readServer(m); ok && k == key {
			state = &ServerState{Server: s}
		}
	})
	if errors.Is(err, unix.ESRCH) || err == nil && state == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read virtual server %v: %w", key, err)
	}
	b.reset()
	b.server(0, id, ipvsGetDest, key, nil)
	err = l.ipvs.dump(ctx, &b, func() { state.Dests = nil }, func(m message) {
		if d, ok := readDest(m, uint16(family(key.Addr.Addr()))); ok {
			state.Dests = append(state.Dests, d)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list destinations of %v: %w", key, err)
	}
	state.Dests = sortDests(state.Dests)
	return state, nil
}

// sortDests sorts by address, in place, and drops what was seen twice because
// others were removed meanwhile.
func sortDests(list []Dest) []Dest {
	slices.SortFunc(list, func(a, b Dest) int { return a.Addr.Compare(b.Addr) })
	return slices.CompactFunc(list, func(a, b Dest) bool { return a.Addr == b.Addr })
}
