package watch

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/service"
)

// maxManager is how long the name of a field manager may be.
const maxManager = 128

// Statuses writes the addresses at which Ingresses are served into their status, as a
// [StatusKind]. It writes only what differs, and only to
//
//   - Ingresses that are served, and whose class still is ours;
//   - Ingresses that are not served any more, or will not be because the last process
//     stops, and whose addresses this installation has written, which the API server
//     remembers under the name of the field manager: those are cleared.
//
// Every write is conditional on the version of the object that was judged. All other
// Ingresses are left alone, whatever they say. The methods may be called from any
// goroutine.
type Statuses struct {
	client  kubernetes.Interface
	log     *slog.Logger
	manager string

	mu        sync.Mutex
	objects   map[service.Name]*observed
	ours      map[service.Name]bool // the class says so
	served    map[service.Name]bool
	decided   bool // served is known
	addresses []networkingv1.IngressLoadBalancerIngress
	published bool // addresses are known
	leaving   bool // this process has been told to stop
	alone     bool // and there is no other one
	changed   func(service.Name)
}

// observed is what the API server says of the status of an Ingress.
type observed struct {
	uid       types.UID
	version   string
	addresses []networkingv1.IngressLoadBalancerIngress // sorted
	written   bool                                      // by this installation
}

// NewStatuses returns a Statuses for the installation that shares the given Lease: two
// installations in one cluster do not clear what the other has written.
func NewStatuses(client kubernetes.Interface, lease service.Name, log *slog.Logger) *Statuses {
	manager := "fairlead-l7 " + lease.String()
	return &Statuses{
		client:  client,
		log:     log,
		manager: manager[:min(len(manager), maxManager)],
		objects: make(map[service.Name]*observed),
		ours:    make(map[service.Name]bool),
	}
}

// Publish sets the addresses at which everything is served. Nothing is written before.
func (s *Statuses) Publish(addresses []Address) {
	list := loadBalancer(addresses)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.published && slices.EqualFunc(s.addresses, list, sameAddress) {
		return
	}
	s.log.Info("addresses to be written into the status of Ingresses", "addresses", describe(list))
	s.addresses, s.published = list, true
	s.allChanged()
}

// Leave says that this process has been told to stop: if it is alone then, nobody will be
// there to serve anything, and the addresses that were written are taken away as long as
// that stays so.
func (s *Statuses) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	s.allChanged()
}

// Alone sets whether no other process serves the same. Nobody having said so, there are
// others.
func (s *Statuses) Alone(alone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alone == alone {
		return
	}
	if s.alone = alone; s.leaving {
		s.allChanged()
	}
}

// Settle waits until nothing is to be written, or until ctx is done, while somebody
// writes.
func (s *Statuses) Settle(ctx context.Context) {
	for !s.settled() && sleep(ctx, settlePoll) {
	}
}

func (s *Statuses) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil || !s.leaving || !s.alone {
		return true
	}
	for n := range s.objects {
		if s.want(n) != nil {
			return false
		}
	}
	return true
}

// Serve sets what is served. Nothing is written before.
func (s *Statuses) Serve(list []service.Name) {
	served := make(map[service.Name]bool, len(list))
	for _, n := range list {
		served[n] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.served
	s.served = served
	if !s.decided {
		s.decided = true
		s.allChanged()
		return
	}
	for n := range served {
		if !old[n] {
			s.note(n)
		}
	}
	for n := range old {
		if !served[n] {
			s.note(n)
		}
	}
}

// observed returns what the status of in is.
func (s *Statuses) observed(in *networkingv1.Ingress) *observed {
	o := &observed{uid: in.UID, version: in.ResourceVersion}
	for _, a := range in.Status.LoadBalancer.Ingress {
		a.Ports = slices.Clone(a.Ports)
		o.addresses = append(o.addresses, a)
	}
	slices.SortFunc(o.addresses, compareAddress)
	o.written = slices.ContainsFunc(in.ManagedFields, func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == s.manager && f.Subresource == "status"
	})
	return o
}

// observe takes note of the status of an Ingress; nil if it is gone.
func (s *Statuses) observe(n service.Name, o *observed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o == nil {
		delete(s.objects, n)
		delete(s.ours, n)
		return
	}
	s.objects[n] = o
	s.note(n)
}

// claim takes note of whether the class of an Ingress says that it is ours.
func (s *Statuses) claim(n service.Name, ours bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ours[n] != ours {
		s.ours[n] = ours
		s.note(n)
	}
}

// note is called with mu held.
func (s *Statuses) note(n service.Name) {
	if s.changed != nil && s.want(n) != nil {
		s.changed(n)
	}
}

func (s *Statuses) allChanged() {
	for n := range s.objects {
		s.note(n)
	}
}

// want returns the write that n needs, or nil. It is called with mu held.
func (s *Statuses) want(n service.Name) *statusWrite {
	o := s.objects[n]
	if o == nil || !s.decided || !s.published {
		return nil
	}
	var list []networkingv1.IngressLoadBalancerIngress
	switch served := s.served[n]; {
	case served && s.ours[n] && s.leaving && s.alone:
		if !o.written {
			return nil
		}
	case served && s.ours[n]:
		list = s.addresses
	case served, !o.written: // not ours any more, or never
		return nil
	}
	if slices.EqualFunc(o.addresses, list, sameAddress) {
		return nil
	}
	return &statusWrite{uid: o.uid, version: o.version, addresses: list}
}

// Watch calls changed with every object whose status is not what it must be, now and
// later; nil ends that. changed must not block.
func (s *Statuses) Watch(changed func(service.Name)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed = changed; changed != nil {
		s.allChanged()
	}
}

// A statusWrite is what to write, and to which version.
type statusWrite struct {
	uid       types.UID
	version   string
	addresses []networkingv1.IngressLoadBalancerIngress
}

func (w *statusWrite) patch() ([]byte, error) {
	list := w.addresses
	if list == nil {
		list = []networkingv1.IngressLoadBalancerIngress{}
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": w.uid, "resourceVersion": w.version},
		"status":   map[string]any{"loadBalancer": map[string]any{"ingress": list}},
	})
}

// statusTimeout bounds one write.
const statusTimeout = 10 * time.Second

// settlePoll is how often Settle looks.
const settlePoll = 50 * time.Millisecond

// Write brings the status of n up to date, if it is not. That n has changed or gone
// since it was judged is no error: its new version will be judged.
func (s *Statuses) Write(ctx context.Context, n service.Name) error {
	s.mu.Lock()
	w := s.want(n)
	s.mu.Unlock()
	if w == nil {
		return nil
	}
	patch, err := w.patch()
	if err != nil {
		return fmt.Errorf("encode the status of Ingress %s: %w", n, err)
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	after, err := s.client.NetworkingV1().Ingresses(n.Namespace).Patch(ctx, n.Name, types.MergePatchType, patch,
		metav1.PatchOptions{FieldManager: s.manager}, "status")
	switch {
	case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("write the status of Ingress %s: %w", n, err)
	}
	s.log.Info("wrote the status of an Ingress", "ingress", n.String(), "addresses", describe(w.addresses))
	s.wrote(n, w.version, after)
	return nil
}

// wrote takes note of our own write, which the watch will show later. It counts only
// if the watch has shown nothing newer meanwhile.
func (s *Statuses) wrote(n service.Name, before string, after *networkingv1.Ingress) {
	o := s.observed(after)
	s.mu.Lock()
	defer s.mu.Unlock()
	if current := s.objects[n]; current != nil && current.version == before {
		s.objects[n] = o
	}
}

func compareAddress(a, b networkingv1.IngressLoadBalancerIngress) int {
	return cmp.Or(strings.Compare(a.IP, b.IP), strings.Compare(a.Hostname, b.Hostname))
}

func sameAddress(a, b networkingv1.IngressLoadBalancerIngress) bool {
	return a.IP == b.IP && a.Hostname == b.Hostname && len(a.Ports) == len(b.Ports)
}

func describe(list []networkingv1.IngressLoadBalancerIngress) string {
	texts := make([]string, 0, len(list))
	for _, a := range list {
		texts = append(texts, cmp.Or(a.IP, a.Hostname))
	}
	return strings.Join(texts, ",")
}
