//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	servicePort   = 80
	targetPort    = 8080
	otherNodes    = 100 // nodes that endpoints are said to run on, n2 and up
	addrsPerNode  = 250
	endpointNodes = 254 // 10.244.2.0/24 to 10.244.255.0/24
	maxServices   = 60_000
	maxEndpoints  = 1000 // an EndpointSlice takes no more
	perSlice      = 100  // endpoints that the controller puts into one
)

// object is what the API server keeps.
type object interface {
	runtime.Object
	metav1.Object
}

// spec says which objects there are. Services are numbered from 0; the last
// Probes of them have one endpoint, a missing one, and wait to be given a live
// one. The others have Endpoints live ones.
type spec struct {
	Services  int // without the probes
	Probes    int
	Endpoints int // of each Service
	// Large has the numbers of endpoints of further Services, which come after the
	// probes, and whose endpoints are in as many EndpointSlices as it takes.
	Large []int
	// Loads says that there is one more Service, for package load.
	Loads bool
}

func (s spec) total() int { return s.Services + s.Probes }

// large returns the number of the k-th large Service.
func (s spec) large(k int) int { return s.total() + k }

// beyond is the number of the first Service that there is not.
func (s spec) beyond() int { return s.total() + len(s.Large) + 1 }

// probe returns the number of the k-th probe Service.
func (s spec) probe(k int) int { return s.Services + k }

// vip is the address of Service i.
func vip(i int) netip.AddrPort {
	n := i + 10 // the first addresses of the range are not given out
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n)}), servicePort)
}

// serviceAt is the inverse of vip; negative or beyond all Services if there is none.
func serviceAt(a netip.Addr) int {
	b := a.As16()
	if !a.Is4() || b[12] != 10 || b[13] != 96 {
		return -1
	}
	return int(b[14])<<8 + int(b[15]) - 10
}

// liveAddr is the k-th endpoint address that answers. After 63500 they repeat, as
// pods that are behind two Services.
func liveAddr(k int) netip.Addr {
	node, host := (k/addrsPerNode)%endpointNodes, k%addrsPerNode
	return netip.AddrFrom4([4]byte{10, 244, byte(2 + node), byte(2 + host)})
}

// deadAddr is the k-th endpoint address that does not answer.
func deadAddr(k int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 244, 0, byte(2 + k%addrsPerNode)})
}

// spare is the k-th live address that no Service has at the start, as long as
// the addresses last.
func (s spec) spare(k int) netip.Addr {
	used := s.Services * s.Endpoints
	for _, n := range s.Large {
		used += n
	}
	return liveAddr(used + k)
}

// objects makes everything the API server has at the start.
func (s spec) objects() []object {
	list := make([]object, 0, 2*s.total()+2)
	list = append(list, node(), serviceCIDR())
	for i := range s.total() {
		addrs := make([]netip.Addr, 0, s.Endpoints)
		if i >= s.Services {
			addrs = append(addrs, deadAddr(i-s.Services))
		}
		for k := 0; i < s.Services && k < s.Endpoints; k++ {
			addrs = append(addrs, liveAddr(i*s.Endpoints+k))
		}
		list = append(list, service(i), slice(i, addrs))
	}
	used := s.Services * s.Endpoints
	for k, n := range s.Large {
		list = append(list, service(s.large(k)))
		for first := 0; first < n; first += perSlice {
			var addrs []netip.Addr
			for j := first; j < min(n, first+perSlice); j++ {
				addrs = append(addrs, liveAddr(used+j))
			}
			list = append(list, part(s.large(k), first/perSlice, addrs))
		}
		used += n
	}
	if s.Loads {
		list = append(list, loadObjects(s.beyond()-1)...)
	}
	return list
}

// part is the k-th EndpointSlice of the large Service i.
func part(i, k int, addrs []netip.Addr) *discoveryv1.EndpointSlice {
	s := slice(i, addrs)
	s.Name = partName(i, k)
	s.UID = uid(uint16(16+k), i)
	return s
}

func partName(i, k int) string { return fmt.Sprintf("%s-p%04d", nameOf(i), k) }

// created is when all objects were: a constant, so that runs are alike.
func created() metav1.Time {
	return metav1.NewTime(time.Date(2026, 1, 15, 9, 30, 0, 0, time.UTC))
}

// uid makes a UID of the usual length out of a kind and a number.
func uid(kind uint16, i int) types.UID {
	return types.UID(fmt.Sprintf("6f1c2ab4-%04x-4d1e-9b7a-%012x", kind, i))
}

func namespaceOf(i int) string { return fmt.Sprintf("team-%03d", i/50) }
func nameOf(i int) string      { return fmt.Sprintf("backend-%05d", i) }

func service(i int) *corev1.Service {
	app := nameOf(i)
	return &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			Name: app, Namespace: namespaceOf(i), UID: uid(1, i), CreationTimestamp: created(),
			Labels: map[string]string{
				"app.kubernetes.io/name":       app,
				"app.kubernetes.io/instance":   app + "-production",
				"app.kubernetes.io/managed-by": "Helm",
				"helm.sh/chart":                "backend-4.7.1",
			},
			Annotations: map[string]string{
				"meta.helm.sh/release-name":      app,
				"meta.helm.sh/release-namespace": namespaceOf(i),
			},
			ManagedFields: managedFields("helm", "v1", serviceFields()),
		},
		Spec: corev1.ServiceSpec{
			Type:       corev1.ServiceTypeClusterIP,
			ClusterIP:  vip(i).Addr().String(),
			ClusterIPs: []string{vip(i).Addr().String()},
			Ports: []corev1.ServicePort{{
				Name: "http", Protocol: corev1.ProtocolTCP, Port: servicePort,
				TargetPort: intstr.FromInt32(targetPort),
			}},
			Selector:              map[string]string{"app.kubernetes.io/name": app, "app.kubernetes.io/instance": app + "-production"},
			SessionAffinity:       corev1.ServiceAffinityNone,
			IPFamilies:            []corev1.IPFamily{corev1.IPv4Protocol},
			IPFamilyPolicy:        new(corev1.IPFamilyPolicySingleStack),
			InternalTrafficPolicy: new(corev1.ServiceInternalTrafficPolicyCluster),
		},
	}
}

// slice is the one EndpointSlice of Service i.
func slice(i int, addrs []netip.Addr) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Name: nameOf(i) + "-x7k2p", GenerateName: nameOf(i) + "-", Namespace: namespaceOf(i),
			UID: uid(2, i), CreationTimestamp: created(), Generation: 1,
			Labels: map[string]string{
				discoveryv1.LabelServiceName:   nameOf(i),
				discoveryv1.LabelManagedBy:     "endpointslice-controller.k8s.io",
				"app.kubernetes.io/name":       nameOf(i),
				"app.kubernetes.io/instance":   nameOf(i) + "-production",
				"app.kubernetes.io/managed-by": "Helm",
				"helm.sh/chart":                "backend-4.7.1",
			},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Service", Name: nameOf(i), UID: uid(1, i),
				Controller: new(true), BlockOwnerDeletion: new(true),
			}},
			ManagedFields: managedFields("kube-controller-manager", "discovery.k8s.io/v1", sliceFields()),
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{
			Name: new("http"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(targetPort)),
		}},
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, endpoint(i, a))
	}
	return s
}

func endpoint(i int, a netip.Addr) discoveryv1.Endpoint {
	b := a.As4()
	number := int(b[2])<<8 | int(b[3])
	onNode := 2 + int(b[2])%otherNodes
	return discoveryv1.Endpoint{
		Addresses: []string{a.String()},
		Conditions: discoveryv1.EndpointConditions{
			Ready: new(true), Serving: new(true), Terminating: new(false),
		},
		NodeName: new(fmt.Sprintf("n%d", onNode)),
		Zone:     new(string(rune('a' + onNode%3))),
		TargetRef: &corev1.ObjectReference{
			Kind: "Pod", Namespace: namespaceOf(i), UID: uid(3, number),
			Name: fmt.Sprintf("%s-6b9c7d8f54-%05x", nameOf(i), number),
		},
	}
}

func managedFields(manager, apiVersion, fields string) []metav1.ManagedFieldsEntry {
	at := created()
	return []metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: apiVersion,
		Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
	}}
}

// fieldSet is the notation of managedFields: names of fields, nested.
type fieldSet map[string]fieldSet

func (f fieldSet) json() string {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // maps of strings cannot fail
	}
	return string(b)
}

func serviceFields() string {
	return fieldSet{
		"f:metadata": {
			"f:annotations": {".": {}, "f:meta.helm.sh/release-name": {}, "f:meta.helm.sh/release-namespace": {}},
			"f:labels": {".": {}, "f:app.kubernetes.io/instance": {}, "f:app.kubernetes.io/managed-by": {},
				"f:app.kubernetes.io/name": {}, "f:helm.sh/chart": {}},
		},
		"f:spec": {
			"f:internalTrafficPolicy": {},
			"f:ports":                 {".": {}, `k:{"port":80,"protocol":"TCP"}`: {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
			"f:selector":              {}, "f:sessionAffinity": {}, "f:type": {},
		},
	}.json()
}

func sliceFields() string {
	return fieldSet{
		"f:addressType": {}, "f:endpoints": {}, "f:ports": {},
		"f:metadata": {
			"f:generateName": {},
			"f:labels": {".": {}, "f:app.kubernetes.io/instance": {}, "f:app.kubernetes.io/managed-by": {},
				"f:app.kubernetes.io/name": {}, "f:endpointslice.kubernetes.io/managed-by": {},
				"f:helm.sh/chart": {}, "f:kubernetes.io/service-name": {}},
			"f:ownerReferences": {".": {}, `k:{"uid":"6f1c2ab4-0001-4d1e-9b7a-000000000000"}`: {}},
		},
	}.json()
}

func node() *corev1.Node {
	return &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "n1", UID: uid(4, 1), CreationTimestamp: created(),
			Labels: map[string]string{
				corev1.LabelHostname: "n1", corev1.LabelTopologyZone: "a",
				corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
			},
		},
		Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24"}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: "172.18.0.11"},
				{Type: corev1.NodeHostName, Address: "n1"},
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func serviceCIDR() *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", UID: uid(5, 1), CreationTimestamp: created()},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}},
		Status: networkingv1.ServiceCIDRStatus{
			Conditions: []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue}},
		},
	}
}
