package watch

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
)

// TestLimitReceived holds that an answer nobody reads yet takes little memory.
func TestLimitReceived(t *testing.T) {
	const size = 3 << 20 // less than Go would take by itself
	sent := make(chan int, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the request came by %s", r.Proto)
		}
		control := http.NewResponseController(w)
		if err := control.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Error(err)
		}
		n, chunk := 0, make([]byte, 32<<10)
		for n < size {
			if _, err := w.Write(chunk); err != nil || control.Flush() != nil {
				break
			}
			n += len(chunk)
		}
		sent <- n
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	c, err := Config("", server.URL, -1, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Insecure = true
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if n := <-sent; n > 2*receiveBuffer {
		t.Errorf("%d bytes were taken that nobody has read, want at most %d", n, receiveBuffer)
	}
}

// TestShare holds that a list of what is known holds no second copy of it.
func TestShare(t *testing.T) {
	m := &mirror{Kind: &Kind{Name: "Service"}}
	web := service.Name{Namespace: "shop", Name: "web"}
	entry := func(port uint16) kube.Entry {
		return kube.Entry{Service: &service.Service{Name: web, Ports: []service.ServicePort{{Port: port}}}}
	}
	known := entry(80)
	m.known.Set(m.object(web), known)
	for port, want := range map[uint16]bool{80: true, 81: false} {
		c := &converted{name: web, entry: entry(port)}
		m.share(c)
		if got := c.entry == known; got != want || c.entry.Service.Ports[0].Port != port {
			t.Errorf("port %d: shared is %t, want %t", port, got, want)
		}
	}
}
