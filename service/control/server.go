package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// listenRetry is the time between attempts to listen, as kube-proxy's.
	listenRetry = 5 * time.Second

	// closeTimeout is how long answers under way may take after the end.
	closeTimeout = time.Second
)

// A Server is one HTTP listener of the process.
type Server struct {
	Name    string // for logs and errors, such as "healthz"
	Addr    string // host:port; empty means disabled
	Handler http.Handler
	Log     *slog.Logger

	// HardFail makes a failure to listen the end; otherwise it is tried again
	// every five seconds.
	HardFail bool
	// Failed is told of the first failure to listen, nil if nobody is to know.
	Failed func(error)
	// WriteTimeout limits the time an answer may take; zero means 10 seconds.
	WriteTimeout time.Duration
}

// Run serves until ctx is done, and returns nil then, or at once if s is
// disabled. It returns an error if it cannot listen and HardFail is set, or if
// the listener breaks.
func (s Server) Run(ctx context.Context) error {
	if s.Addr == "" {
		return nil
	}
	ln, err := s.listen(ctx)
	if err != nil || ln == nil {
		return err
	}
	srv := newServer(s.Handler, s.Log, s.WriteTimeout)
	ctx, cancel := context.WithCancel(ctx)
	var closing sync.WaitGroup
	defer closing.Wait()
	defer cancel()
	closing.Go(func() {
		<-ctx.Done()
		shutdown(srv)
	})
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s on %s: %w", s.Name, s.Addr, err)
	}
	return nil
}

// listen returns nil, nil if ctx is done first.
func (s Server) listen(ctx context.Context) (net.Listener, error) {
	for first := true; ; first = false {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Addr)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				return nil, ln.Close()
			}
			return nil, nil
		case err == nil:
			return ln, nil
		}
		err = fmt.Errorf("listen for %s: %w", s.Name, err)
		if first && s.Failed != nil {
			s.Failed(err)
		}
		if s.HardFail {
			return nil, err
		}
		if first {
			s.Log.Error("cannot listen, trying again", "server", s.Name, "addr", s.Addr, "err", err, "every", listenRetry)
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(listenRetry):
		}
	}
}

// newServer returns a server that strangers may talk to: it waits for nobody and
// keeps little for each.
func newServer(h http.Handler, log *slog.Logger, writeTimeout time.Duration) *http.Server {
	if writeTimeout == 0 {
		writeTimeout = 10 * time.Second
	}
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// shutdown lets answers under way finish, but not for long.
func shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		_ = srv.Close()
	}
}

// MetricsConfig is what the metrics server answers with.
type MetricsConfig struct {
	Gatherer  prometheus.Gatherer // required, for /metrics
	ProxyMode string              // the bare word for /proxyMode
	Profiling bool                // serve /debug/pprof/ and /debug/flags/, for whoever can connect

	// For /statusz, and Started for the header by which a scraper tells restarts.
	Name       string // of the program
	Version    string // of the program
	Kubernetes string // the version it behaves like, such as 1.36
	Started    time.Time

	Health       *Health                  // for /metrics/slis; nil means there is none
	Flags        func() map[string]string // for /flagz; nil means there is none
	SetVerbosity func(string) error       // for PUT /debug/flags/v, which takes Profiling; nil means there is none

	// Handlers are further paths, such as /configz.
	Handlers map[string]http.Handler
}

// MetricsHandler returns the handler of /metrics, /healthz and /proxyMode, which
// is where cluster tests look for the mode, and of what else c asks for.
func MetricsHandler(c MetricsConfig) http.Handler {
	paths := map[string]http.Handler{
		"/metrics":   c.metrics(c.Gatherer),
		"/healthz":   http.HandlerFunc(ping),
		"/proxyMode": plain(c.ProxyMode),
	}
	maps.Copy(paths, c.Handlers)
	if c.Health != nil {
		reg := prometheus.NewRegistry()
		reg.MustRegister(newSLIs(c.Health, c.Started))
		paths["/metrics/slis"] = c.metrics(reg)
	}
	if c.Flags != nil {
		paths["/flagz"] = c.flagz()
	}
	paths["/statusz"] = c.statusz(append(slices.Sorted(maps.Keys(paths)), "/statusz"))
	mux := http.NewServeMux()
	for path, h := range paths {
		mux.Handle(path, h)
	}
	mux.HandleFunc("/healthz/ping", plain("ok"))
	if c.Profiling {
		c.debug(mux)
	}
	return mux
}

// debug adds what shows the inside of the process. These paths are not listed.
func (c MetricsConfig) debug(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	if c.SetVerbosity != nil {
		mux.HandleFunc("/debug/flags", flagsIndex)
		mux.HandleFunc("/debug/flags/", flagsIndex)
		mux.HandleFunc("/debug/flags/v", c.setVerbosity)
	}
}

// metrics serves what is gathered, with the header of Kubernetes components that
// says when the process began.
func (c MetricsConfig) metrics(g prometheus.Gatherer) http.Handler {
	h := promhttp.HandlerFor(g, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.Started.IsZero() {
			w.Header().Set("Process-Start-Time-Unix", strconv.FormatInt(c.Started.Unix(), 10))
		}
		h.ServeHTTP(w, r)
	})
}

// ping says that this server answers, which is all there is to say here: how the
// node is, the health server says.
func ping(w http.ResponseWriter, r *http.Request) {
	if _, verbose := r.URL.Query()["verbose"]; verbose {
		plain("[+]ping ok\nhealthz check passed\n")(w, r)
		return
	}
	plain("ok")(w, r)
}

func plain(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = io.WriteString(w, text)
	}
}
