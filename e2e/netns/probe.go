//go:build linux

package netns

import (
	"context"
	"net/netip"
	"time"
)

// Probe makes one exchange with a destination and reports what became of it. It
// sends a payload and wants it back, from a server started with [NS.Serve]
// (or, for ICMP, from the destination's kernel). Hundreds may run at once.
//
// Connections are reset afterwards, so that neither the source port nor the
// translation of the flow lingers.
func (ns *NS) Probe(ctx context.Context, r Request) Result {
	if r.Proto == TCP || r.Proto == SCTP {
		return ns.probeStream(ctx, r)
	}
	start := time.Now()
	s, err := ns.OpenSession(r)
	if err != nil {
		return Result{Class: classify(err), Err: err, Elapsed: time.Since(start)}
	}
	defer s.Close()
	return s.Exchange(ctx)
}

func (ns *NS) probeStream(ctx context.Context, r Request) Result {
	start := time.Now()
	c, res := ns.Dial(ctx, r)
	if c == nil {
		return res
	}
	defer c.Reset()
	res = c.Exchange(ctx, payload("probe", r.Size))
	res.Elapsed = time.Since(start)
	return res
}

// Ping sends one ICMP echo request and waits up to timeout for the answer.
func (ns *NS) Ping(ctx context.Context, dst netip.Addr, timeout time.Duration) Result {
	return ns.Probe(ctx, Request{Proto: ICMP, Dst: netip.AddrPortFrom(dst, 0), Timeout: timeout})
}

// payload pads token with letters to size bytes. It has no space or newline. A
// token longer than size is returned whole.
func payload(token string, size int) string {
	b := make([]byte, max(size, len(token)))
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	copy(b, token)
	return string(b)
}
