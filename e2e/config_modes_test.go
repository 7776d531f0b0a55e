//go:build linux

package e2e

import (
	"testing"

	"github.com/fairlead-project/fairlead/e2e/netns"
)

// TestIPVSModes asks for IPVS or else iptables, on a kernel that has IPVS.
func TestIPVSModes(t *testing.T) {
	b := newIPVSBed(t, "--proxy-mode=nftables,ipvs,iptables")
	b.serve(t, netns.TCP, 8080, pod(2))
	b.begin(t, web(1, 2))
	b.says(t, `msg="proxy mode chosen" mode=ipvs because="the first of ipvs, iptables"`)
	if status, mode, err := b.fetch(t, metricsURL+"/proxyMode"); err != nil || status != 200 || mode != "ipvs" {
		t.Errorf("/proxyMode answers %d %q, %v", status, mode, err)
	}
	b.answers(t, "in the first mode", web(1))
}
