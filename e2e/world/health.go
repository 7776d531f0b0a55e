//go:build linux

package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/servicetest"
)

// defaultLag is long for a healthy proxy, and short for a machine that is busy.
const defaultLag = 5 * time.Second

// eventually calls check until it returns nil, for lag at most.
func eventually(ctx context.Context, lag time.Duration, check func() error) error {
	deadline := time.Now().Add(lag)
	for {
		err := check()
		if err == nil || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Get makes a HTTP request from a namespace and returns status and body, which is
// JSON.
func Get(ctx context.Context, from *netns.NS, at netip.AddrPort) (int, []byte, error) {
	status, body, err := fetch(ctx, from, "http://"+at.String()+"/", 2*time.Second)
	if err == nil && !json.Valid(body) {
		err = fmt.Errorf("not JSON: %.200q", body)
	}
	return status, body, err
}

// fetch is Get for any URL, any body and any patience.
func fetch(ctx context.Context, from *netns.NS, url string, patience time.Duration) (int, []byte, error) {
	client := http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
				err = from.Do(func() error {
					c, err = new(net.Dialer).DialContext(ctx, network, addr)
					return err
				})
				return c, err
			},
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// checkHealth asks n1's health-check node ports from the client, as a load
// balancer would. Those other steps of the case have must be closed.
func (s *session) checkHealth(ctx context.Context, step *servicetest.Step) []Failure {
	var out []Failure
	var open []netip.AddrPort
	for _, h := range step.Health {
		at := netip.AddrPortFrom(healthAddr(h.Want.Family), h.Want.Port)
		open = append(open, at)
		if err := eventually(ctx, s.lag(), func() error { return s.World.healthIs(ctx, at, h.Want) }); err != nil {
			out = append(out, Failure{Step: step.Name, Line: h.Line, Text: fmt.Sprintf("health %s", h.Want.Service), Err: err})
		}
	}
	for _, other := range s.c.Steps {
		for _, h := range other.Health {
			at := netip.AddrPortFrom(healthAddr(h.Want.Family), h.Want.Port)
			if slices.Contains(open, at) {
				continue
			}
			if err := eventually(ctx, s.lag(), func() error { return s.World.healthClosed(ctx, at) }); err != nil {
				out = append(out, Failure{Step: step.Name, Line: step.Line, Text: "step", Err: err})
			}
		}
	}
	return out
}

func healthAddr(f service.Family) netip.Addr {
	return netns.NodeAddr(1).Like(f.Any())
}

func (w *World) healthIs(ctx context.Context, at netip.AddrPort, want service.HealthPort) error {
	status, text, err := Get(ctx, w.Client, at)
	if err != nil {
		return fmt.Errorf("ask for health: %w", err)
	}
	var body struct {
		Service        struct{ Namespace, Name string }
		LocalEndpoints int
	}
	if err := json.Unmarshal(text, &body); err != nil {
		return fmt.Errorf("health at %s: %w in %s", at, err, text)
	}
	wantStatus := http.StatusServiceUnavailable
	if want.Local > 0 {
		wantStatus = http.StatusOK
	}
	name := service.Name{Namespace: body.Service.Namespace, Name: body.Service.Name}
	if status != wantStatus || body.LocalEndpoints != want.Local || name != want.Service {
		return fmt.Errorf("health at %s is %d, %d endpoints of %s; want %d, %d of %s",
			at, status, body.LocalEndpoints, name, wantStatus, want.Local, want.Service)
	}
	return nil
}

func (w *World) healthClosed(ctx context.Context, at netip.AddrPort) error {
	status, _, err := Get(ctx, w.Client, at)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return fmt.Errorf("health at %s: got status %d and %v, want it closed", at, status, err)
}

// checkProblems holds what the proxy has complained about since it was started
// against the steps up to number i.
func (s *session) checkProblems(ctx context.Context, i int) []Failure {
	step := &s.c.Steps[i]
	want := make(map[Problem]int)
	for _, sofar := range s.c.Steps[:i+1] {
		for _, e := range sofar.Problems {
			want[Problem{e.Kind, e.Object, e.Reason}] = e.Line
		}
	}
	err := eventually(ctx, s.lag(), func() error {
		got, err := s.Source.Problems(ctx, s.proxy)
		if err != nil {
			return fmt.Errorf("look for problems: %w", err)
		}
		for _, g := range got {
			if _, ok := want[g]; !ok {
				return fmt.Errorf("the proxy complains of %s", g)
			}
		}
		for p, line := range want {
			if !slices.Contains(got, p) {
				return fmt.Errorf("the proxy does not complain of %s, line %d", p, line)
			}
		}
		return nil
	})
	if err == nil {
		return nil
	}
	return []Failure{{Step: step.Name, Line: step.Line, Text: "problems", Err: err}}
}
