package watch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-project/fairlead/service"
)

// The limits the API server puts on Events.
const (
	noteLimit     = 1024
	instanceLimit = 128
	nameLimit     = 253
)

const reportingController = "fairlead.io/fairlead"

// action is what fairlead was about when it found what an Event says: for what
// kube-proxy says too, in its words.
func action(s saying) string {
	switch s.Reason {
	case "Starting", "FailedToStartProxierHealthcheck", "FailedToStartMetricServer":
		return "StartKubeProxy"
	case "FailedToStartServiceHealthcheck":
		return "Listen"
	default:
		return "Serve"
	}
}

// window returns the number of the ten minutes t is in.
func window(t time.Time) int64 { return t.Unix() / 600 }

// event returns the Event that says s for the nth time.
func event(s saying, node string, nth int, now time.Time) *eventsv1.Event {
	regarding := corev1.ObjectReference{
		APIVersion: apiVersion(s.Object.Kind),
		Kind:       s.Object.Kind,
		Namespace:  s.Object.Namespace,
		Name:       s.Object.Name.Name,
		UID:        types.UID(s.Object.UID),
	}
	namespace := regarding.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where the API wants Events of objects without one
	}
	reason := s.Reason
	if reason == "" {
		reason = "Problem"
	}
	kind := corev1.EventTypeWarning
	if s.normal {
		kind = corev1.EventTypeNormal
	}
	return &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: eventName(s, node, nth, now)},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: reportingController,
		ReportingInstance:   truncate(node, instanceLimit),
		Action:              action(s),
		Reason:              truncate(reason, instanceLimit),
		Regarding:           regarding,
		Note:                truncate(note(s.Problem), noteLimit),
		Type:                kind,
	}
}

func note(p service.Problem) string {
	if p.Field == "" {
		return p.Message
	}
	return p.Field + ": " + p.Message
}

// eventName returns the name under which all nodes file the same saying.
func eventName(s saying, node string, nth int, now time.Time) string {
	if !s.local {
		node = ""
	}
	when := window(now)
	if s.normal { // a process says it once, and the next one says it again
		when = now.UnixNano()
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %d %d", []string{
		s.Object.Kind, s.Object.Namespace, s.Object.Name.Name, s.Object.UID, s.Reason, s.Field, s.Message,
	}, node, when, nth))
	suffix := "." + hex.EncodeToString(sum[:8])
	base := strings.TrimRight(truncate(s.Object.Name.Name, nameLimit-len(suffix)), ".-")
	if base == "" {
		base = "fairlead"
	}
	return base + suffix
}

// truncate cuts s to at most n bytes, between characters.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// apiVersion returns the API version of the kinds Problems are about.
func apiVersion(kind string) string {
	switch kind {
	case "EndpointSlice":
		return discoveryv1.SchemeGroupVersion.String()
	case "Ingress", "IngressClass":
		return networkingv1.SchemeGroupVersion.String()
	default:
		return corev1.SchemeGroupVersion.String()
	}
}
