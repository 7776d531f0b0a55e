//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// l7Script has wrk ask for one host after the other, and say what came of it in one line.
const l7Script = `local headers = {%[4]s}
local hosts, many, path = {}, %[1]d, "%[2]s"
for i = 0, many - 1 do hosts[i] = string.format("h%%05d.example.com", i) end
local next, ready = 0, {}
function request()
  local host = many > 0 and hosts[next] or "%[3]s"
  next = (next + 7919) %% math.max(many, 1)
  local r = ready[host]
  if not r then
    headers["Host"] = host
    r = wrk.format("GET", path, headers)
    ready[host] = r
  end
  return r
end
function done(s, latency)
  local e = s.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d %%d\n", s.requests, s.duration,
    e.connect + e.read + e.write + e.timeout, e.status, s.bytes, latency:percentile(99)))
end
`

// script writes what wrk is to do in a scenario, and returns the file.
func (c *l7Contest) script(s l7Scenario) (string, error) {
	many, host, headers := 0, l7PlainHost, ""
	if s.many {
		many = c.options.routes
	}
	if s.tls {
		host = l7TLSHost
	}
	if s.anew {
		headers = `Connection = "close"`
	}
	file := filepath.Join(c.arena.dir, s.key+".lua")
	return file, os.WriteFile(file, fmt.Appendf(nil, l7Script, many, s.path, host, headers), 0o644)
}

// l7Result is what wrk says.
type l7Result struct {
	requests, failed, status, bytes int64
	elapsed, p99                    time.Duration
	cpu                             time.Duration // of wrk
}

// load makes one.
func (c *l7Contest) load(ctx context.Context, s l7Scenario, to netip.AddrPort, long time.Duration) (l7Result, error) {
	script, err := c.script(s)
	if err != nil {
		return l7Result{}, err
	}
	scheme := "http"
	if s.tls {
		scheme = "https"
	}
	p := c.arena.cluster.Client.Command(ctx, c.options.wrk, "-t1", "-c"+strconv.Itoa(s.conns), "--timeout", "5s",
		"-d"+strconv.Itoa(max(int(long.Seconds()), 1))+"s", "-s", script, scheme+"://"+to.String()+s.path)
	if err := p.Start(); err != nil {
		return l7Result{}, err
	}
	if err := p.Wait(); err != nil {
		return l7Result{}, fmt.Errorf("wrk: %w: %s", err, strings.TrimSpace(p.Output()))
	}
	r, err := parseWrk(p.Stdout(), s)
	r.cpu = p.Cmd.ProcessState.UserTime() + p.Cmd.ProcessState.SystemTime()
	return r, err
}

func parseWrk(text string, s l7Scenario) (l7Result, error) {
	_, line, ok := strings.Cut(text, "RESULT ")
	if !ok {
		return l7Result{}, fmt.Errorf("wrk: no result in %q", text)
	}
	var r l7Result
	var micros, p99 int64
	if _, err := fmt.Sscan(line, &r.requests, &micros, &r.failed, &r.status, &r.bytes, &p99); err != nil {
		return r, fmt.Errorf("wrk: %q: %w", line, err)
	}
	r.elapsed, r.p99 = time.Duration(micros)*time.Microsecond, time.Duration(p99)*time.Microsecond
	if r.requests == 0 || r.elapsed == 0 {
		return r, fmt.Errorf("wrk: nothing was answered; %d connections failed", r.failed)
	}
	if r.status > 0 {
		return r, fmt.Errorf("wrk: %d of %d answers have a status of 400 or above", r.status, r.requests)
	}
	if r.bytes < r.requests*int64(s.body) {
		return r, fmt.Errorf("wrk: %d answers of %d bytes came to %d bytes", r.requests, s.body, r.bytes)
	}
	return r, nil
}

// treeCPU is the CPU time of a process and its children.
func treeCPU(pid int) (sum time.Duration, err error) {
	m := &procMeter{}
	m.pid.Store(int64(pid))
	pids, err := m.pids()
	for _, pid := range pids {
		one, oneErr := processCPU(pid)
		err = errors.Join(err, oneErr)
		sum += one
	}
	return sum, err
}

// expense is what a proxy, and all of us with it, has used so far.
func (c *l7Contest) expense(p *l7Process) (e expense, err error) {
	if e.proxy, err = treeCPU(p.pid()); err != nil {
		return e, errors.Join(err, p.ended())
	}
	e.whole = e.proxy
	for _, pid := range append(slices.Clone(c.softirq), c.arena.backends()...) {
		used, err := treeCPU(pid)
		if err != nil {
			return e, err
		}
		e.whole += used
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return e, err
	}
	e.whole += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	e.machine, err = readMachine()
	return e, err
}

// measure makes one load, and notes what the proxy spent on it from the first connection to the end of the last.
func (c *l7Contest) measure(ctx context.Context, r *l7Rival, s l7Scenario, round int) error {
	p := r.running[s.many]
	stop := c.profile(ctx, r, s)
	defer stop()
	from, err := c.expense(p)
	if err != nil {
		return err
	}
	got, err := c.load(ctx, s, p.target(s), c.options.load)
	if err != nil {
		return errors.Join(err, p.ended())
	}
	to, err := c.expense(p)
	if err != nil {
		return err
	}
	to.whole += got.cpu
	n := float64(got.requests)
	out := sample{
		Rival: r.name, Scenario: s.key, Kind: s.key, Round: round + 1, Failed: got.failed,
		Rate: n / got.elapsed.Seconds(), Slowest: got.p99.Seconds(),
		Whole: (to.whole - from.whole).Seconds() / n, Proxy: (to.proxy - from.proxy).Seconds() / n,
		Foreign: foreign(effort{machine: from.machine, self: from.whole}, effort{machine: to.machine, self: to.whole}),
	}
	c.samples = append(c.samples, out)
	c.log.Info("load", "rival", r.name, "scenario", s.key, "rate", int(out.Rate),
		"cpu_us", fmt.Sprintf("%.1f", out.Proxy*1e6), "others_percent", int(out.Foreign), "failed", got.failed)
	return nil
}

// profile begins a CPU profile of fairlead, if one is wanted. The function returned waits for it.
func (c *l7Contest) profile(ctx context.Context, r *l7Rival, s l7Scenario) func() {
	if c.options.profile == "" || r.name != fairleadL7Name {
		return func() {}
	}
	p := r.running[s.many]
	done := make(chan struct{})
	go func() {
		defer close(done)
		url := fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=%d", p.metrics, max(int(c.options.load.Seconds()), 1))
		_, err := c.arena.node.Output(ctx, "curl", "-sf", "-o", filepath.Join(c.options.profile, s.key+".pprof"), url)
		if err != nil {
			c.log.Warn("there is no profile", "err", err)
		}
	}()
	return func() { <-done }
}
