//go:build linux

package controlplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// newNetNS returns the path of a network namespace of the test's own with
// loopback up and addr on it. It is gone after the test.
func newNetNS(t *testing.T, addr netip.Prefix) string {
	t.Helper()
	made := make(chan error)
	over := make(chan struct{})
	var path string
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with it
		path = fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		made <- makeNetNS(addr)
		<-over
	}()
	err := <-made
	t.Cleanup(func() { close(over) })
	if errors.Is(err, unix.EPERM) {
		t.Skip("making a network namespace needs CAP_SYS_ADMIN; run as root or under unshare -Urn")
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func makeNetNS(addr netip.Prefix) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	ip := &netlink.Addr{IPNet: &net.IPNet{
		IP:   addr.Addr().AsSlice(),
		Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen()),
	}}
	return errors.Join(netlink.AddrAdd(lo, ip), netlink.LinkSetUp(lo))
}

func TestClusterInNetNS(t *testing.T) {
	addr := netip.MustParsePrefix("172.18.0.1/24")
	c := start(t, Options{
		NetNS:            newNetNS(t, addr),
		BindAddress:      netip.IPv4Unspecified(),
		AdvertiseAddress: addr.Addr(),
		Port:             6443,
	})
	slices := admin(t, c).DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	slice, err := slices.Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := net.JoinHostPort(slice.Endpoints[0].Addresses[0], strconv.Itoa(int(*slice.Ports[0].Port)))
	if want := "172.18.0.1:6443"; got != want {
		t.Errorf("endpoint of default/kubernetes: got %s, want %s", got, want)
	}

	// Another client of ours, without the namespace, must not find it.
	config := c.RESTConfig()
	config.Host = "https://127.0.0.1:6443"
	config.Dial = nil
	outside, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if version, err := outside.Discovery().ServerVersion(); err == nil {
		t.Errorf("dial of the port from outside the namespace: got an answer, %v", version)
	}
}

func TestStartThreadNoSuchNetNS(t *testing.T) {
	if _, err := startThread("/proc/self/ns/no-such"); err == nil {
		t.Error("got no error for a namespace that does not exist")
	}
}
