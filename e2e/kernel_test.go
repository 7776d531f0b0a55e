//go:build linux

package e2e

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/fairlead-project/fairlead/e2e/lab"
)

// ipvsHere is what the running kernel lacks for IPVS mode; nil if nothing.
var ipvsHere = sync.OnceValue(func() error { return lab.CheckIPVS(context.Background()) })

// requireIPVS skips the test if the running kernel has no IPVS: TestIPVSLab runs
// it on one that has. Names of tests that call it begin with TestIPVS, by which
// they are found.
func requireIPVS(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("sends real packets through network namespaces")
	}
	err := ipvsHere()
	if err != nil && os.Getenv(lab.Inside) != "" {
		t.Fatalf("this kernel was chosen because it has IPVS, but: %v", err)
	}
	if err != nil {
		t.Skipf("runs in the lab, see TestIPVSLab, because here: %v", err)
	}
}
