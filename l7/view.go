package l7

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// DrainTime is how long requests under way may take after the process was told to stop.
func (s *Server) DrainTime() time.Duration { return s.process.Load().globals.Listeners.Drain }

// Register adds the metrics of s.
func (s *Server) Register(prometheus.Registerer) {}

// StatusPage returns the handler of the status page for clients in allow.
func (s *Server) StatusPage(allow []netip.Prefix) http.Handler { return http.NotFoundHandler() }
