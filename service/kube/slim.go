package kube

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AnnotationPrefix is what the annotations that change how fairlead treats an
// object begin with.
const AnnotationPrefix = "fairlead.io/"

// readsAnnotation reports whether an annotation is read anywhere in this program.
func readsAnnotation(key string) bool {
	switch key {
	case corev1.EndpointsLastChangeTriggerTime,
		"kube-router.io/service.scheduler",
		"kube-router.io/service.schedflags":
		return true
	}
	return strings.HasPrefix(key, AnnotationPrefix)
}

// readsLabel reports whether a label is read anywhere in this program.
func readsLabel(key string) bool {
	switch key {
	case LabelProxyName, LabelHeadless, discoveryv1.LabelServiceName, corev1.LabelTopologyZone:
		return true
	}
	return false
}

// Slim cuts a Service, EndpointSlice or Node down to what this program reads,
// in place, and returns it. It leaves every other object as it is, so it fits as
// a transform of informers (cache.TransformFunc). It never fails.
//
// Conversions of o give the same before and after.
func Slim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Service:
		slimService(o)
	case *discoveryv1.EndpointSlice:
		slimSlice(o)
	case *corev1.Node:
		slimNode(o)
	}
	return o, nil
}

func slimMeta(m *metav1.ObjectMeta) {
	*m = metav1.ObjectMeta{
		Name:              m.Name,
		Namespace:         m.Namespace,
		UID:               m.UID,
		ResourceVersion:   m.ResourceVersion,
		Generation:        m.Generation,
		CreationTimestamp: m.CreationTimestamp,
		DeletionTimestamp: m.DeletionTimestamp,
		Labels:            keep(m.Labels, readsLabel),
		Annotations:       keep(m.Annotations, readsAnnotation),
	}
}

// keep returns the entries of m whose keys are wanted, nil if there are none.
func keep(m map[string]string, wanted func(string) bool) map[string]string {
	var out map[string]string
	for k, v := range m {
		if wanted(k) {
			if out == nil {
				out = make(map[string]string, 1)
			}
			out[k] = v
		}
	}
	return out
}

func slimService(o *corev1.Service) {
	slimMeta(&o.ObjectMeta)
	s := &o.Spec
	o.Spec = corev1.ServiceSpec{
		Ports:                    s.Ports,
		ClusterIP:                s.ClusterIP,
		ClusterIPs:               s.ClusterIPs,
		Type:                     s.Type,
		ExternalIPs:              s.ExternalIPs,
		SessionAffinity:          s.SessionAffinity,
		SessionAffinityConfig:    s.SessionAffinityConfig,
		LoadBalancerSourceRanges: s.LoadBalancerSourceRanges,
		ExternalTrafficPolicy:    s.ExternalTrafficPolicy,
		HealthCheckNodePort:      s.HealthCheckNodePort,
		IPFamilies:               s.IPFamilies,
		InternalTrafficPolicy:    s.InternalTrafficPolicy,
	}
	ingress := o.Status.LoadBalancer.Ingress
	for i, in := range ingress {
		ingress[i] = corev1.LoadBalancerIngress{IP: in.IP, IPMode: in.IPMode}
	}
	o.Status = corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: ingress}}
}

func slimSlice(o *discoveryv1.EndpointSlice) {
	slimMeta(&o.ObjectMeta)
	for i, e := range o.Endpoints {
		o.Endpoints[i] = discoveryv1.Endpoint{
			Addresses:  e.Addresses[:min(len(e.Addresses), 1):min(len(e.Addresses), 1)],
			Conditions: e.Conditions,
			NodeName:   e.NodeName,
			Hints:      e.Hints,
		}
	}
}

func slimNode(o *corev1.Node) {
	slimMeta(&o.ObjectMeta)
	o.Spec = corev1.NodeSpec{
		PodCIDR:  o.Spec.PodCIDR,
		PodCIDRs: o.Spec.PodCIDRs,
		Taints:   o.Spec.Taints,
	}
	o.Status = corev1.NodeStatus{Addresses: o.Status.Addresses}
}
