package watch

import (
	"fmt"
	"os"
	"runtime/debug"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Config returns how to reach the API server: with the file kubeconfig, at the
// URL master, both, or, if both are empty, as a pod of the cluster. qps and
// burst limit the requests; zero means client-go's defaults of 5 and 10, a
// negative qps no limit. Errors name the file.
func Config(kubeconfig, master string, qps float32, burst int) (*rest.Config, error) {
	c, err := load(kubeconfig, master)
	if err != nil {
		return nil, err
	}
	c.QPS, c.Burst = qps, burst
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.UserAgent = "fairlead/" + version()
	c.Wrap(limitReceived)
	return c, nil
}

func load(kubeconfig, master string) (*rest.Config, error) {
	if kubeconfig == "" && master == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("neither a kubeconfig nor the address of an API server is given, and in-cluster configuration failed: %w", err)
		}
		return c, nil
	}
	file := api.NewConfig()
	if kubeconfig != "" {
		data, err := os.ReadFile(kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig: %w", err) // names the file
		}
		if file, err = clientcmd.Load(data); err != nil {
			return nil, fmt.Errorf("parse kubeconfig %s: %w", kubeconfig, err)
		}
		for _, c := range file.Clusters {
			c.LocationOfOrigin = kubeconfig
		}
		for _, a := range file.AuthInfos {
			a.LocationOfOrigin = kubeconfig
		}
		if err := clientcmd.ResolveLocalPaths(file); err != nil {
			return nil, fmt.Errorf("resolve the paths in kubeconfig %s: %w", kubeconfig, err)
		}
	}
	overrides := &clientcmd.ConfigOverrides{ClusterInfo: api.Cluster{Server: master}}
	c, err := clientcmd.NewDefaultClientConfig(*file, overrides).ClientConfig()
	if err != nil {
		if kubeconfig == "" {
			return nil, fmt.Errorf("API server %s: %w", master, err)
		}
		return nil, fmt.Errorf("kubeconfig %s: %w", kubeconfig, err)
	}
	return c, nil
}

// version returns the version of this program's module.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
