package watch

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-project/fairlead/l7/ingress"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestDbg(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, ourClass("fairlead", ingress.Controller), ourIngress("plain"), ourIngress("web", "a"), secret("a", "1"))
		var failing atomic.Bool
		failing.Store(true)
		b.fail(&failing)
		t0 := time.Now()
		b.PrependReactor("*", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
			fmt.Println(time.Since(t0), a.GetVerb(), failing.Load())
			return false, nil, nil
		})
		b.start()
		defer b.stop()
		settle()
		failing.Store(false)
		time.Sleep(20*time.Second)
		settle()
	})
}
