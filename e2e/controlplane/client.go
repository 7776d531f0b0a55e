//go:build linux

package controlplane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// AdminKubeconfig returns the path of a kubeconfig that may do anything. It
// names the advertised address, so with Options.NetNS it works for programs that
// have a route to it, which this process may not: see RESTConfig.
func (c *Cluster) AdminKubeconfig() string { return c.path("admin.kubeconfig") }

// Kubeconfig writes a kubeconfig for the given user and groups and returns its
// path. They may do what RBAC lets them, which is next to nothing until the
// caller binds them to a role: for kube-proxy's own rights bind
// "system:kube-proxy", which the API server itself already has bound to the
// ClusterRole system:node-proxier.
func (c *Cluster) Kubeconfig(user string, groups ...string) (string, error) {
	pair, err := c.ca.client(user, groups)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(c.dir, "*.kubeconfig") // user names have colons and may have slashes
	if err != nil {
		return "", fmt.Errorf("write a kubeconfig for %q: %w", user, err)
	}
	f.Close()
	return f.Name(), c.writeKubeconfig(f.Name(), pair)
}

func (c *Cluster) writeKubeconfig(path string, pair keyPair) error {
	const name = "fairlead-e2e"
	config := clientcmdapi.NewConfig()
	config.CurrentContext = name
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.Clusters[name] = &clientcmdapi.Cluster{Server: c.url(), CertificateAuthorityData: c.ca.pem}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.cert, ClientKeyData: pair.key}
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return nil
}

func (c *Cluster) url() string {
	return "https://" + net.JoinHostPort(c.opts.AdvertiseAddress.String(), strconv.Itoa(int(c.claim.port)))
}

// RESTConfig returns a new client configuration that may do anything, without
// client-side rate limits. It reaches the API server from this process even if
// it runs in another network namespace.
func (c *Cluster) RESTConfig() *rest.Config {
	config := &rest.Config{
		Host: c.url(),
		TLSClientConfig: rest.TLSClientConfig{
			CAData:   c.ca.pem,
			CertData: c.admin.cert,
			KeyData:  c.admin.key,
		},
		QPS:   -1,
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, // whatever HTTPS_PROXY says
	}
	if c.opts.NetNS != "" {
		config.Dial = dialIn(c.opts.NetNS)
	}
	return config
}

// awaitAPIServer returns when p is ready for a test to use. Readiness alone is
// too early. Addresses of Services come from ServiceCIDR objects, which the API
// server makes and approves in the background; once the Service
// default/kubernetes has its own, they can be had. Its endpoints come later
// still, and a dataplane that sees it without any will reject its callers.
func (c *Cluster) awaitAPIServer(ctx context.Context, p *process) error {
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		return fmt.Errorf("make a client for kube-apiserver: %w", err)
	}
	return p.await(ctx, "wait for", func(ctx context.Context) error {
		if _, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
			return err
		}
		const ns, name = metav1.NamespaceDefault, "kubernetes"
		if _, err := client.CoreV1().Services(ns).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		if c.opts.AdvertiseAddress.IsLoopback() {
			return nil // there will be no endpoints
		}
		slice, err := client.DiscoveryV1().EndpointSlices(ns).Get(ctx, name, metav1.GetOptions{})
		if err == nil && len(slice.Endpoints) == 0 {
			err = fmt.Errorf("the Service %s/%s has no endpoints yet", ns, name)
		}
		return err
	})
}
