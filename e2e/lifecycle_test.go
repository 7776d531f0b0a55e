//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/e2e/world"
)

// TestShutdownGrace tells fairlead to stop: load balancers hear of it first, changes
// are still followed, and a second signal ends it at once. The rules stay.
func TestShutdownGrace(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft", "--shutdown-grace=1h")
	b.serve(t, netns.TCP, 8080, pod(2), pod(3))
	b.begin(t, web(1, 2))
	s := &surfaces{World: b.World}
	s.status(t, "/readyz", http.StatusOK)
	if err := b.proxy.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.status(t, "/healthz", http.StatusServiceUnavailable)
	s.status(t, "/readyz", http.StatusServiceUnavailable)
	s.status(t, "/livez", http.StatusOK)
	b.apply(t, web(1, 2), web(2, 3))
	b.answers(t, "while fairlead is about to end", web(1), web(2))
	before := b.save(t)
	if err := b.proxy.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.proxy.Done():
	case <-time.After(time.Minute):
		t.Fatal("a second signal does not end fairlead")
	}
	b.unchanged(t, "when fairlead has ended", before)
	b.answers(t, "without fairlead", web(1), web(2))
}

// status waits until a page of the health server answers with a code.
func (s *surfaces) status(t *testing.T, path string, want int) {
	t.Helper()
	within(t, time.Minute, func() error {
		p, err := s.tryGet(t.Context(), http.MethodGet, healthServer+path, "")
		if err == nil && p.status != want {
			err = fmt.Errorf("%s answers %d, want %d: %s", path, p.status, want, p.body)
		}
		return err
	})
}

// TestHealthPortTaken starts fairlead while somebody else has the port of its health
// server: it goes on and tries again, or ends if it was told to; the Node gets an
// Event either way.
func TestHealthPortTaken(t *testing.T) {
	t.Parallel()
	b := newBed(t, "nft")
	api := newAPI(t, b.World).(*world.API)
	b.src = api
	b.serve(t, netns.TCP, 8080, pod(2))
	if err := b.Serve(netns.TCP, netip.MustParseAddrPort("127.0.0.1:10256")); err != nil {
		t.Fatal(err)
	}
	b.put(t, web(1, 2))
	b.startWith(t, append(api.Args(), "--bind-address-hard-fail")...)
	b.ends(t, "listen for healthz")
	within(t, time.Minute, func() error {
		list, err := api.Client.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
			return e.Reason == "FailedToStartProxierHealthcheck" && e.Type == "Warning" && e.Action == "StartKubeProxy" &&
				e.Regarding.Kind == "Node" && e.Regarding.Name == "n1" && strings.Contains(e.Note, "10256")
		}) {
			return fmt.Errorf("no Event says so; there are %d others", len(list.Items))
		}
		return nil
	})
	b.startWith(t, api.Args()...)
	b.await(t)
	b.says(t, "cannot listen, trying again")
	b.answers(t, "without a health server", web(1))
	if err := b.Silence(); err != nil {
		t.Fatal(err)
	}
	(&surfaces{World: b.World}).status(t, "/healthz", http.StatusOK)
}
