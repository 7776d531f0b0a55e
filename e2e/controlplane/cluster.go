//go:build linux

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	startTimeout = 5 * time.Minute // for each program; they take seconds on an idle machine
	stopGrace    = 2 * time.Second // between SIGTERM and SIGKILL

	// maxSocketPath is the room for a path in sockaddr_un (unix(7)), less the
	// final NUL.
	maxSocketPath = 107
)

// A Cluster is a running control plane. Its methods may be called from any
// goroutine; Close ends it.
type Cluster struct {
	opts    Options // with defaults
	bins    Paths
	dir     string
	thread  *thread
	claim   portClaim
	claimed bool
	ca      *authority
	admin   keyPair
	etcd    *process

	mu        sync.Mutex // guards the rest
	apiserver *process   // nil when stopped
	closed    bool
}

// Start builds the programs if need be (see [Binaries]), runs them, and returns
// when the API server is ready and Services can be created. ctx bounds the start
// only. On failure nothing is left running, and the error quotes the log of the
// program that failed.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("start a control plane: %w", err)
	}
	bins, err := Binaries(ctx)
	if err != nil {
		return nil, fmt.Errorf("start a control plane: %w", err)
	}
	c := &Cluster{opts: opts.withDefaults(), bins: bins}
	if err := c.start(ctx); err != nil {
		return nil, fmt.Errorf("start a control plane: %w", errors.Join(err, c.Close()))
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.makeDir(); err != nil {
		return err
	}
	var err error
	if c.thread, err = startThread(c.opts.NetNS); err != nil {
		return err
	}
	c.thread.do(func() { c.claim, err = claimPort(c.opts.BindAddress, c.opts.Port) })
	if err != nil {
		return err
	}
	c.claimed = true
	if err := c.writeKeys(); err != nil {
		return err
	}
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	return c.StartAPIServer(ctx)
}

// makeDir settles where the cluster keeps its files.
func (c *Cluster) makeDir() error {
	c.dir = c.opts.Dir
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "fairlead-e2e-")
		if err != nil {
			return err
		}
		c.dir = dir
	}
	var err error
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return err
	}
	old, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	if len(old) > 0 {
		return fmt.Errorf("the folder %s holds %s already: want an empty one", c.dir, old[0].Name())
	}
	if sock := c.etcdSocket(); len(sock) > maxSocketPath {
		return fmt.Errorf("socket path %s is %d bytes long, the limit is %d: use a shorter Dir or TMPDIR", sock, len(sock), maxSocketPath)
	}
	return nil
}

// writeKeys makes every certificate and key that lasts for the cluster's life.
func (c *Cluster) writeKeys() error {
	var err error
	if c.ca, err = newAuthority(); err != nil {
		return err
	}
	serving, err := c.ca.server(c.opts.certAddrs(), certNames())
	if err != nil {
		return err
	}
	accountKey, accountPub, err := newSigningKey()
	if err != nil {
		return err
	}
	if c.admin, err = c.ca.client("fairlead-e2e-admin", []string{"system:masters"}); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"ca.crt":              c.ca.pem,
		"apiserver.crt":       serving.cert,
		"apiserver.key":       serving.key,
		"service-account.key": accountKey,
		"service-account.pub": accountPub,
	} {
		if err := os.WriteFile(c.path(name), data, 0o600); err != nil {
			return fmt.Errorf("write the cluster's keys: %w", err)
		}
	}
	return c.writeKubeconfig(c.AdminKubeconfig(), c.admin)
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *Cluster) etcdSocket() string { return c.path("etcd.sock") }

func (c *Cluster) startEtcd(ctx context.Context) error {
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	p, err := c.thread.start(c.dir, "etcd", c.bins.Etcd, c.etcdArgs()...)
	if err != nil {
		return err
	}
	c.etcd = p
	c.opts.Log.Info("started", "program", p.name, "pid", p.cmd.Process.Pid, "log", p.log)
	return p.await(ctx, "wait for", c.etcdHealthy)
}

func (c *Cluster) etcdHealthy(ctx context.Context) error {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.etcdSocket())
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://etcd/health", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd is unhealthy: %s", resp.Status)
	}
	return nil
}

// StartAPIServer starts the API server after StopAPIServer, on the same port
// with the same data, and returns when it is ready. It is an error if it runs
// already. If it fails to become ready it is left stopped.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("start kube-apiserver: the cluster is closed")
	}
	if c.apiserver != nil {
		return errors.New("start kube-apiserver: it runs already")
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	p, err := c.thread.start(c.dir, "kube-apiserver", c.bins.APIServer, c.apiServerArgs()...)
	if err != nil {
		return err
	}
	c.opts.Log.Info("started", "program", p.name, "pid", p.cmd.Process.Pid, "log", p.log)
	if err := c.awaitAPIServer(ctx, p); err != nil {
		_ = p.stop(0) // err has said more than its exit could
		return err
	}
	c.apiserver = p
	return nil
}

// StopAPIServer stops the API server and returns when it is gone: with SIGTERM,
// as a node being upgraded would, then after two seconds with SIGKILL, since open
// watches can hold up an orderly end for a minute. Clients then get
// connection refused. Stopping a stopped one does nothing. If it had ended by
// itself before, the error quotes its log.
func (c *Cluster) StopAPIServer() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopAPIServer(stopGrace)
}

func (c *Cluster) stopAPIServer(grace time.Duration) error {
	if c.apiserver == nil {
		return nil
	}
	err := c.apiserver.stop(grace)
	c.apiserver = nil
	c.opts.Log.Info("stopped", "program", "kube-apiserver")
	return err
}

// Close stops everything Start started and removes its files, unless
// Options.Dir named their place. A program that had ended by itself is an error.
// Closing twice does nothing.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	errs := []error{c.stopAPIServer(0)} // nobody will miss an orderly end
	if c.etcd != nil {
		errs = append(errs, c.etcd.stop(0))
	}
	if c.thread != nil {
		c.thread.close()
	}
	if c.claimed {
		c.claim.close()
	}
	if c.opts.Dir == "" && c.dir != "" {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// withStartTimeout keeps a hung program from holding up a test that has no
// deadline of its own.
func withStartTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("gave up after %v", startTimeout))
}
