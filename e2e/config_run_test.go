//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// A mount is a ConfigMap as kubelet mounts it.
type mount struct {
	dir string
	n   int
}

// put gives the file config.conf other contents: kubelet swaps a link to a folder.
func (m *mount) put(t *testing.T, text string) {
	t.Helper()
	m.n++
	folder, link := "..version-"+strconv.Itoa(m.n), filepath.Join(m.dir, "..data")
	err := os.Mkdir(filepath.Join(m.dir, folder), 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(m.dir, folder, "config.conf"), []byte(text), 0o600)
	}
	if err == nil {
		err = os.Symlink(folder, link+"_tmp")
	}
	if err == nil {
		err = os.Rename(link+"_tmp", link)
	}
	if err == nil && m.n == 1 {
		err = os.Symlink("..data/config.conf", filepath.Join(m.dir, "config.conf"))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// kubeadmLike is a configuration as kubeadm writes it, with one of fairlead's own behind it: the first mode of several
// that the node can run.
const kubeadmLike = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
clientConnection: {kubeconfig: %s, burst: 0, qps: 0, contentType: ""}
clusterCIDR: 10.244.0.0/16,fd00:10:244::/48
conntrack: {maxPerCore: 0, min: null, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
detectLocalMode: ""
healthzBindAddress: 127.0.0.1
iptables: {masqueradeBit: null, minSyncPeriod: 100ms, syncPeriod: 0s}
metricsBindAddress: ""
mode: "%s"
nodePortAddresses: null
oomScoreAdj: 0
udpIdleTimeout: 250ms
---
apiVersion: fairlead.io/v1alpha1
kind: FairleadConfiguration
iptables: {variant: nft}
statusSocket: ""
modes: [%s]
`

// TestConfigMap runs fairlead as a DaemonSet of kubeadm runs kube-proxy: by that name, with the same two flags and a
// mounted ConfigMap, which changes.
func TestConfigMap(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft")
	api := newAPI(t, b.World).(*world.API)
	b.src = api
	b.serve(t, netns.TCP, 8080, pod(2))
	kubeProxy := filepath.Join(t.TempDir(), "kube-proxy")
	if err := os.Symlink(b.program.Path, kubeProxy); err != nil {
		t.Fatal(err)
	}
	kubeconfig := strings.TrimPrefix(api.Args()[0], "--kubeconfig=")
	m := &mount{dir: t.TempDir()}
	m.put(t, fmt.Sprintf(kubeadmLike, kubeconfig, "nftables", "ipvs, iptables"))
	start := func() {
		p, err := b.Start(t.Context(), world.Program{Path: kubeProxy, Mode: world.IPTables},
			"--config="+filepath.Join(m.dir, "config.conf"), "--hostname-override=n1")
		if err != nil {
			t.Fatal(err)
		}
		b.proxy = p
	}
	b.put(t, web(1, 2))
	start()
	b.await(t)
	b.answers(t, "with a mounted ConfigMap", web(1))
	b.says(t, `unknown field \"udpIdleTimeout\"`)
	b.says(t, "proxy mode chosen")
	b.modeIs(t, api)

	m.put(t, fmt.Sprintf(kubeadmLike, kubeconfig, "nftables", "nosuch"))
	b.says(t, "the configuration has changed and is wrong; what is in force stays")
	b.event(t, api, "InvalidConfiguration", "modes: unknown proxy mode")
	b.answers(t, "with a wrong configuration", web(1))
	m.put(t, fmt.Sprintf(kubeadmLike, kubeconfig, "nftables", "ipvs, iptables")+"# and a comment\n")
	b.says(t, "the configuration is valid again")

	m.put(t, fmt.Sprintf(kubeadmLike, kubeconfig, "iptables", "iptables"))
	b.ends(t, "the configuration has changed; starting again with it")
	b.answers(t, "between two processes", web(1))
	start()
	b.await(t)
	if status, mode, err := b.fetch(t, metricsURL+"/proxyMode"); err != nil || status != 200 || mode != "iptables" {
		t.Errorf("/proxyMode answers %d %q, %v", status, mode, err)
	}
	b.answers(t, "with another configuration", web(1))
	b.stop(t)
	b.cleanUp(t, kubeProxy)
}

// cleanUp wants --cleanup to do what the subcommand does.
func (b *bed) cleanUp(t *testing.T, program string) {
	t.Helper()
	if before := b.tables(t); !strings.Contains(before, "FL-") {
		t.Errorf("nothing is there to be cleaned up:\n%s", before)
	}
	p, err := b.Start(t.Context(), world.Program{Path: program}, "--cleanup")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("--cleanup: %v\n%s", err, p.Tail(20))
	}
	if after := b.tables(t); strings.Contains(after, "FL-") {
		t.Errorf("--cleanup has left\n%s", after)
	}
}

// tables returns all rules of the node for IPv4.
func (b *bed) tables(t *testing.T) string {
	t.Helper()
	out, err := b.tool(t.Context(), "", "iptables-nft-save")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// modeIs wants all who are asked to name the same mode, one of the two.
func (b *bed) modeIs(t *testing.T, api *world.API) {
	t.Helper()
	_, mode, err := b.fetch(t, metricsURL+"/proxyMode")
	if err != nil || !slices.Contains([]string{"ipvs", "iptables"}, mode) {
		t.Fatalf("/proxyMode is %q, %v", mode, err)
	}
	why := "the first of ipvs, iptables"
	if mode == "iptables" {
		why += " that this node can run; ipvs: "
	}
	b.event(t, api, "ProxyModeChosen", "Proxy mode "+mode+": "+why)
	_, text, err := b.fetch(t, metricsURL+"/configz")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("/configz: %v in %s", err, text)
	}
	theirs, ours := got["kubeproxy.config.k8s.io"], got["fairlead.io"]
	if theirs["mode"] != mode || theirs["kind"] != "KubeProxyConfiguration" || theirs["healthzBindAddress"] != "127.0.0.1:10256" {
		t.Errorf("/configz of kube-proxy is %v", theirs)
	}
	if fmt.Sprint(ours["modes"]) != "[ipvs iptables]" || ours["kind"] != "FairleadConfiguration" {
		t.Errorf("/configz of fairlead is %v", ours)
	}
}

// event waits for an Event on the Node.
func (b *bed) event(t *testing.T, api *world.API, reason, note string) {
	t.Helper()
	within(t, time.Minute, func() error {
		list, err := api.Client.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
			return e.Reason == reason && e.Regarding.Kind == "Node" && e.Regarding.Name == "n1" && strings.Contains(e.Note, note)
		}) {
			return fmt.Errorf("none of %d Events is %s with %q: %v", len(list.Items), reason, note, list.Items)
		}
		return nil
	})
}
