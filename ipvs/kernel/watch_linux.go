package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How long to wait before a socket that failed is opened again.
const (
	minReconnect = 100 * time.Millisecond
	maxReconnect = 10 * time.Second
)

// Watch calls changed, one call at a time, when something of ours changes in
// rtnetlink: the device, whether it is up, its addresses, their local routes, the
// routes of the table, or the rules that look at it. IPVS and ipset say nothing of
// their changes.
//
// Changes by Apply count too, since the kernel does not say who made them; there
// is about one call for as many changes as were read at once. So the caller has
// to compare, and must not answer changed with a change in every case.
//
// Watch returns an error if it cannot subscribe at first. Otherwise it runs until
// ctx ends, opening its socket again when that fails; since changes are missed
// then, it calls changed after each subscription, the first one too. It does not
// use l's sockets: it can run beside everything else. Like Open it looks at the
// namespace of the thread it is called from.
func (l *Linux) Watch(ctx context.Context, device string, table uint32, changed func()) error {
	w := &watcher{device: device, table: table, changed: changed, buf: make([]byte, 64<<10)}
	file, err := w.subscribe(ctx)
	if err != nil {
		return err
	}
	for wait := minReconnect; ; {
		if file != nil {
			wait = minReconnect
			changed()
			w.follow(ctx, file)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, maxReconnect)
		file, _ = w.subscribe(ctx) // nil after an error: later, then
	}
}

// A watcher knows what is ours.
type watcher struct {
	device  string
	index   uint32 // of the device, 0 while there is none
	table   uint32
	changed func()
	buf     []byte
}

// subscribe opens a socket for what is announced.
func (w *watcher) subscribe(ctx context.Context) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	var groups uint32
	for _, g := range [...]int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	} {
		groups |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to rtnetlink: %w", err), unix.Close(fd))
	}
	// For the burst of our own changes; what does not fit is noticed as well.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20)
	file := os.NewFile(uintptr(fd), "rtnetlink")
	// After the subscription, so that no other index is missed.
	asking := &Linux{route: conn{protocol: unix.NETLINK_ROUTE}}
	dev, err := asking.link(ctx, w.device)
	if err = errors.Join(err, asking.Close()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	w.index = dev.index
	return file, nil
}

// follow reads until that fails or ctx ends, and closes file.
func (w *watcher) follow(ctx context.Context, file *os.File) {
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		_ = file.Close() // nothing was written
	}()
	for {
		n, err := file.Read(w.buf)
		switch {
		case errors.Is(err, unix.ENOBUFS): // there was more than fits
			w.changed()
		case err != nil:
			return
		case w.ours(w.buf[:n]):
			w.changed()
		}
	}
}

// ours reports whether one of the messages is about what we watch.
func (w *watcher) ours(text []byte) bool {
	ours := false
	for len(text) > 0 {
		m, rest, err := nextMessage(text)
		if err != nil {
			return true // who knows
		}
		text = rest
		ours = w.about(m) || ours // each is read, for the index of the device
	}
	return ours
}

func (w *watcher) about(m message) bool {
	switch m.typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return w.aboutLink(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(m.data) >= unix.SizeofIfAddrmsg && w.index != 0 && native32(m.data[4:]) == w.index
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.data) < unix.SizeofRtMsg {
			return false
		}
		dev, table := routeTarget(m)
		return table == w.table || table == unix.RT_TABLE_LOCAL && w.index != 0 && dev == w.index
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return ruleTable(m) == w.table
	default:
		return false
	}
}

// aboutLink reports whether m is about the device, or what was the device.
func (w *watcher) aboutLink(m message) bool {
	if len(m.data) < unix.SizeofIfInfomsg {
		return false
	}
	index := native32(m.data[4:])
	named := false
	m.after(unix.SizeofIfInfomsg).each(func(typ uint16, data []byte) {
		if typ == unix.IFLA_IFNAME {
			named = zeroEnded(data) == w.device
		}
	})
	ours := named || index == w.index && w.index != 0
	switch {
	case named && m.typ == unix.RTM_NEWLINK:
		w.index = index
	case ours:
		w.index = 0
	}
	return ours
}
