//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

const (
	minSoak = 30 * time.Second
	// soakIdle is the time of a UDP session without a datagram: so short that a soak
	// of ten minutes sees as many end as begin.
	soakIdle   = 20 * time.Second
	soakChurn  = time.Second // between two changes of endpoints
	soakLong   = 3           // transfers at a time
	soakWindow = 5           // samples of which the median counts
)

// soak is fairlead's userspace mode under a load that lasts.
type soak struct {
	options  options
	log      *slog.Logger
	arena    *arena
	begun    time.Time
	short    talk
	udp      talk
	long     transfers
	changes  int
	samples  []growth
	used     time.Duration // CPU of the proxy while there was load
	problems []string
}

// churned is the Service whose endpoints come and go, and lasting the one that keeps
// its own. Each has one address for pods, and one for all.
func (s *soak) churned(ready, leaving []netip.Addr) arenaService {
	return arenaService{
		name: "churned", cluster: clusterIP(11), external: externalIP(11), ready: ready, leaving: leaving,
		ports: []arenaPort{{"tcp", "TCP", talkPort}, {"udp", "UDP", talkPort}},
	}
}

func (s *soak) lasting() arenaService {
	return arenaService{
		name: "lasting", cluster: clusterIP(12), external: externalIP(12), ports: loadPorts(), ready: s.arena.podAddrs(2),
	}
}

func runSoak(ctx context.Context, o options, log *slog.Logger) (err error) {
	if err := netns.Usable(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fairlead-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := filepath.Abs(o.fairlead)
	if o.fairlead == "" {
		program, err = buildFairlead(ctx, dir)
	}
	if err != nil {
		return err
	}
	s := &soak{options: o, log: log}
	if s.arena, err = newArena(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.arena.close()) }()
	if err := s.start(ctx, program); err != nil {
		return err
	}
	if err := s.run(ctx); err != nil {
		return err
	}
	return s.judge(os.Stdout)
}

func (s *soak) start(ctx context.Context, program string) error {
	for _, pod := range s.arena.pods {
		_, err := pod.ServeAll([]netns.Proto{netns.TCP, netns.UDP}, netip.AddrPortFrom(pod.Addrs[0], talkPort))
		if err != nil {
			return err
		}
	}
	for _, svc := range []arenaService{s.churned(s.arena.podAddrs(arenaPods), nil), s.lasting()} {
		if err := s.arena.put(svc); err != nil {
			return err
		}
	}
	return s.arena.startFairlead(ctx, program, "userspace", "--userspace-udp-timeout="+soakIdle.String())
}

// run puts the load on, watches, takes it off, and waits until nothing is left.
func (s *soak) run(ctx context.Context) error {
	s.log.Info("soaking", "for", s.options.soak)
	before, err := processCPU(s.arena.pid())
	if err != nil {
		return err
	}
	s.begun = time.Now()
	loading, stop := context.WithTimeout(ctx, s.options.soak)
	defer stop()
	var all sync.WaitGroup
	var errs [2]error
	all.Go(func() { s.talkShort(loading) })
	all.Go(func() { s.talkUDP(loading) })
	for i := range soakLong {
		all.Go(func() { s.transfer(loading, i) })
	}
	all.Go(func() { errs[0] = s.churn(loading) })
	all.Go(func() { errs[1] = s.watch(loading) })
	all.Wait()
	after, err := processCPU(s.arena.pid())
	s.used = after - before
	if err := errors.Join(append(errs[:], err, context.Cause(ctx), s.arena.ended())...); err != nil {
		return err
	}
	return s.drain(ctx)
}

// churn has one pod after the other leave the churned Service for a while, half of
// them by terminating first.
func (s *soak) churn(ctx context.Context) error {
	all := s.arena.podAddrs(arenaPods)
	for i := 0; sleep(ctx, soakChurn) == nil; i++ {
		out := i / 2 % arenaPods
		ready, leaving := slices.Delete(slices.Clone(all), out, out+1), []netip.Addr(nil)
		if i%2 == 0 && i/2/arenaPods%2 == 0 {
			leaving = all[out : out+1]
		}
		if err := s.arena.put(s.churned(ready, leaving)); err != nil {
			return err
		}
		s.changes++
	}
	return nil
}

// watch takes samples until ctx ends. The last one is of the load at work.
func (s *soak) watch(ctx context.Context) error {
	every := min(max(s.options.soak/120, 500*time.Millisecond), 5*time.Second)
	for sleep(ctx, every) == nil {
		g, err := s.look()
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("look at the proxy: %w", errors.Join(err, s.arena.ended()))
		}
		if err == nil {
			s.samples = append(s.samples, g)
		}
	}
	return nil
}

func (s *soak) look() (growth, error) {
	pid := s.arena.pid()
	m, err := readMemory(pid)
	if err != nil {
		return growth{}, err
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return growth{}, err
	}
	values, err := s.metrics()
	if err != nil {
		return growth{}, err
	}
	return growth{
		at: time.Since(s.begun), goroutines: values["go_goroutines"], descriptors: float64(len(fds)), resident: float64(m.resident),
		connections: values["fairlead_userspace_connections"], sessions: values["fairlead_userspace_udp_sessions"],
	}, nil
}

// drain waits until the proxy has forgotten everything, and notes what it has not.
func (s *soak) drain(ctx context.Context) error {
	var g growth
	for deadline := time.Now().Add(soakIdle + 20*time.Second); ; {
		var err error
		if g, err = s.look(); err != nil {
			return err
		}
		if g.connections == 0 && g.sessions == 0 || time.Now().After(deadline) {
			break
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	if g.connections > 0 || g.sessions > 0 {
		s.problems = append(s.problems, fmt.Sprintf("after the load, %.0f connections and %.0f sessions were left", g.connections, g.sessions))
	}
	s.samples = append(s.samples, g)
	return nil
}
