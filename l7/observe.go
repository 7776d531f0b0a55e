package l7

import (
	"context"
	"crypto/tls"
	"maps"
	"net/http"
	"time"
	"weak"

	"github.com/fairlead-project/fairlead/l7/accesslog"
	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/exchange"
	"github.com/fairlead-project/fairlead/l7/stats"
	"github.com/fairlead-project/fairlead/l7/std"
)

// observe counts and logs a request that is over.
func (s *Server) observe(x *exchange.Exchange, f *flight, d std.Done) {
	now := time.Now()
	done := accesslog.Done{
		Status: d.Status, HeadIn: x.Request.Size, BytesIn: d.In, BytesOut: d.Out, Duration: now.Sub(x.Request.Started), Now: now,
		Aborted: x.Response != nil && x.Response.Status == statusClientGone || d.Err != nil && x.Context.Err() != nil && d.Status != http.StatusSwitchingProtocols,
	}
	if x.Response != nil {
		s.stats.Answers.Add(x.Response.Reason)
	}
	counted, status := s.unrouted, d.Status
	if done.Aborted {
		status = statusClientGone
	}
	if f.rule != nil {
		counted = f.rule.stats
		if f.canary {
			counted = f.rule.canaryStats
			done.Alternative = f.rule.canary.target
		}
	}
	counted.Observe(status, x.Request.Method, done.Duration, f.upstream, d.In, d.Out)
	if f.rule == nil || f.rule.log {
		s.access.Write(x, done)
	}
}

// openLog makes the access log.
func (s *Server) openLog(g *annotation.Globals) error {
	if s.cfg.AccessLog == nil {
		return nil
	}
	c := accesslog.Config{Off: g.Log.Off, Skip: g.Log.Skip, Format: g.Log.Format, EscapeJSON: g.Log.EscapeJSON}
	if s.access != nil {
		return s.access.Configure(c)
	}
	var err error
	s.access, err = accesslog.New(s.cfg.AccessLog, c)
	return err
}

// writeLog writes the access log until ctx is done and everything is written.
func (s *Server) writeLog(ctx context.Context) {
	if s.access == nil {
		return
	}
	if err := s.access.Run(ctx); err != nil {
		s.cfg.Log.Error("lines of the access log are lost", "err", err)
	}
}

// forgetEvery is how long a rule that is gone keeps its metrics at least.
const forgetEvery = 5 * time.Minute

// forgetStats drops the metrics of rules that exist no more.
func (s *Server) forgetStats(ctx context.Context) {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		exist := map[stats.Key]bool{s.unrouted.Key(): true}
		for _, h := range s.table.Load().All() {
			for p := range h.Paths() {
				exist[p.Value.stats.Key()] = true
				exist[p.Value.canaryStats.Key()] = true
			}
			if r := h.Fallback(); r != nil {
				exist[(*r).stats.Key()] = true
				exist[(*r).canaryStats.Key()] = true
			}
		}
		s.stats.Drop(func(k stats.Key) bool { return exist[k] })
		s.mu.Lock()
		maps.DeleteFunc(s.upstreams, func(_ tlsKey, c weak.Pointer[tls.Config]) bool { return c.Value() == nil })
		s.mu.Unlock()
	}
}
