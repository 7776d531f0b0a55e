//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-project/fairlead/e2e/bench/load"
	"github.com/fairlead-project/fairlead/e2e/netns"
)

// talk counts short exchanges.
type talk struct {
	made, again, failed atomic.Int64
	some                someErrors
}

// transfers counts long ones.
type transfers struct {
	ended, failed, bytes atomic.Int64
	some                 someErrors
}

// someErrors keeps the first few.
type someErrors struct {
	mu   sync.Mutex
	list []string
}

func (e *someErrors) add(err error) {
	const few = 5
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) < few {
		e.list = append(e.list, err.Error())
	}
}

// caller returns who calls the i-th time, and where.
func (s *soak) caller(i int, svc arenaService, port uint16) (*netns.NS, netip.AddrPort) {
	if i%2 == 0 {
		return s.arena.caller.NS, netip.AddrPortFrom(svc.cluster, port)
	}
	return s.arena.cluster.Client, netip.AddrPortFrom(svc.external, port)
}

// pacemaker calls do at a rate, each time in a goroutine of its own, at most 64 at a
// time, until ctx ends; then it waits for the last.
func pacemaker(ctx context.Context, rate int, do func(i int)) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	free := make(chan struct{}, 64)
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		free <- struct{}{}
		all.Go(func() {
			do(i)
			<-free
		})
	}
}

// talkPatience is long for a machine that is busy.
const talkPatience = 5 * time.Second

// talkShort makes connections with an exchange each, one in three of which the client
// ends first, one the server, and one a reset.
func (s *soak) talkShort(ctx context.Context) {
	svc, whole := s.churned(nil, nil), context.WithoutCancel(ctx)
	pacemaker(ctx, s.options.soakRate, func(i int) {
		ns, to := s.caller(i, svc, talkPort)
		s.short.made.Add(1)
		c, r := ns.Dial(whole, netns.Request{Proto: netns.TCP, Dst: to, Timeout: talkPatience})
		if c != nil {
			if r = c.Exchange(whole, strings.Repeat("x", 500)); r.Class == netns.Reply && i%3 == 0 {
				r = c.Finish(whole)
			}
			end := c.Close
			if i%3 == 1 {
				end = c.Reset
			}
			_ = end()
		}
		if r.Class != netns.Reply {
			s.short.failed.Add(1)
			s.short.some.add(fmt.Errorf("after %v: %v", time.Since(s.begun).Round(time.Second), r))
		}
	})
}

// talkUDP begins a session for each datagram. One that is lost when its endpoint
// leaves is sent again, as every UDP client has to.
func (s *soak) talkUDP(ctx context.Context) {
	svc, whole := s.churned(nil, nil), context.WithoutCancel(ctx)
	pacemaker(ctx, s.options.soakRate/2, func(i int) {
		ns, to := s.caller(i, svc, talkPort)
		s.udp.made.Add(1)
		var r netns.Result
		for try := range 3 {
			if try > 0 {
				s.udp.again.Add(1)
			}
			if r = ns.Probe(whole, netns.Request{Proto: netns.UDP, Dst: to, Size: 200}); r.Class == netns.Reply {
				return
			}
		}
		s.udp.failed.Add(1)
		s.udp.some.add(fmt.Errorf("after %v: %v", time.Since(s.begun).Round(time.Second), r))
	})
}

// transfer receives, in bursts, over connections that last a quarter of a minute.
func (s *soak) transfer(ctx context.Context, i int) {
	ns, to := s.caller(i, s.lasting(), pingPort+uint16(load.Bulk))
	for ctx.Err() == nil {
		if err := s.receive(ctx, ns, to); err != nil {
			s.long.failed.Add(1)
			s.long.some.add(fmt.Errorf("after %v: %w", time.Since(s.begun).Round(time.Second), err))
			_ = sleep(ctx, time.Second)
			continue
		}
		s.long.ended.Add(1)
	}
}

func (s *soak) receive(ctx context.Context, ns *netns.NS, to netip.AddrPort) error {
	const bursts, burst = 15, 4 << 20
	c, err := dialIn(ctx, ns, to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, load.Message)); err != nil {
		return err
	}
	for range bursts {
		if err := c.SetReadDeadline(time.Now().Add(talkPatience)); err != nil {
			return err
		}
		n, err := io.CopyN(io.Discard, c, burst)
		s.long.bytes.Add(n)
		if err != nil {
			return err
		}
		if sleep(ctx, time.Second) != nil {
			return nil
		}
	}
	return nil
}

// dialIn connects from a namespace.
func dialIn(ctx context.Context, ns *netns.NS, to string) (c net.Conn, err error) {
	d := net.Dialer{Timeout: talkPatience}
	err = ns.Do(func() error {
		c, err = d.DialContext(context.WithoutCancel(ctx), "tcp4", to)
		return err
	})
	return c, err
}

// metrics asks fairlead for all that have no labels.
func (s *soak) metrics() (map[string]float64, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, to string) (net.Conn, error) {
			return dialIn(ctx, s.arena.node.NS, to)
		},
	}}
	answer, err := client.Get("http://127.0.0.1:10249/metrics")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/metrics: %s", answer.Status)
	}
	values, err := parseMetrics(answer.Body)
	if _, ok := values["go_goroutines"]; err == nil && !ok {
		err = errors.New("/metrics has no go_goroutines")
	}
	return values, err
}

// parseMetrics reads what has no labels, from the text format of Prometheus.
func parseMetrics(r io.Reader) (map[string]float64, error) {
	values := map[string]float64{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") || strings.ContainsAny(name, "{") {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
		values[name] = number
	}
	return values, lines.Err()
}
