package kube

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/fairlead-project/fairlead/service"
)

func TestScheduling(t *testing.T) {
	const scheduler, flags = "metadata.annotations[fairlead.io/scheduler]", "metadata.annotations[fairlead.io/scheduler-flags]"
	tests := []struct {
		name        string
		annotations []string // key, value
		want        service.Scheduling
		fields      []string
	}{
		{"none", []string{"note", "wlc"}, service.Scheduling{}, nil},
		{"scheduler", []string{AnnotationScheduler, "wlc"}, service.Scheduling{Algorithm: "wlc"}, nil},
		{"spaces", []string{AnnotationScheduler, " lc\n"}, service.Scheduling{Algorithm: "lc"}, nil},
		{"empty", []string{AnnotationScheduler, "", AnnotationSchedulerFlags, " , "}, service.Scheduling{}, nil},
		{"unknown", []string{AnnotationScheduler, "fastest"}, service.Scheduling{}, []string{scheduler}},
		{"upper case", []string{AnnotationScheduler, "RR"}, service.Scheduling{}, []string{scheduler}},
		{"two", []string{AnnotationScheduler, "rr,lc"}, service.Scheduling{}, []string{scheduler}},
		{"unknown with flags", []string{AnnotationScheduler, "x", AnnotationSchedulerFlags, "y,flag-1"}, service.Scheduling{}, []string{scheduler}},
		{"flags of sh", []string{AnnotationScheduler, "sh", AnnotationSchedulerFlags, "sh-port, sh-fallback,sh-port"},
			service.Scheduling{Algorithm: "sh", Flags: "sh-fallback,sh-port"}, nil},
		{"flags of mh", []string{AnnotationScheduler, "mh", AnnotationSchedulerFlags, "mh-port,mh-fallback,flag-3"},
			service.Scheduling{Algorithm: "mh", Flags: "flag-3,mh-fallback,mh-port"}, nil},
		{"numbered flag", []string{AnnotationScheduler, "rr", AnnotationSchedulerFlags, "flag-2"},
			service.Scheduling{Algorithm: "rr", Flags: "flag-2"}, nil},
		{"numbered flag alone", []string{AnnotationSchedulerFlags, "flag-2"}, service.Scheduling{Flags: "flag-2"}, nil},
		{"flags of another", []string{AnnotationScheduler, "sh", AnnotationSchedulerFlags, "mh-port,sh-port"},
			service.Scheduling{Algorithm: "sh"}, []string{flags}},
		{"flags of none", []string{AnnotationSchedulerFlags, "sh-port,flag-1"}, service.Scheduling{}, []string{flags}},
		{"unknown flags", []string{AnnotationScheduler, "sh", AnnotationSchedulerFlags, "port,sh-portal,sh-port"},
			service.Scheduling{Algorithm: "sh"}, []string{flags, flags}},
		{"kube-router's", []string{annotationRouterScheduler, "mh", annotationRouterFlags, "mh-port"},
			service.Scheduling{Algorithm: "mh", Flags: "mh-port"}, nil},
		{"kube-router's broken", []string{annotationRouterScheduler, "least"}, service.Scheduling{},
			[]string{"metadata.annotations[kube-router.io/service.scheduler]"}},
		{"kube-router's flags broken", []string{annotationRouterScheduler, "mh", annotationRouterFlags, "sh-port"}, service.Scheduling{Algorithm: "mh"},
			[]string{"metadata.annotations[kube-router.io/service.schedflags]"}},
		{"ours wins", []string{AnnotationScheduler, "lc", annotationRouterScheduler, "sh", annotationRouterFlags, "sh-port"},
			service.Scheduling{Algorithm: "lc"}, nil},
		{"a pair is not mixed", []string{AnnotationSchedulerFlags, "sh-port", annotationRouterScheduler, "sh"},
			service.Scheduling{}, []string{flags}},
	}
	var cases []serviceCase
	for _, tt := range tests {
		cases = append(cases, serviceCase{
			name: tt.name, fields: tt.fields,
			in: func(o *corev1.Service) {
				o.Annotations = make(map[string]string)
				for i := 0; i < len(tt.annotations); i += 2 {
					o.Annotations[tt.annotations[i]] = tt.annotations[i+1]
				}
			},
			want: func(s *service.Service) { s.Scheduling = tt.want },
		})
	}
	runServiceCases(t, cases)
}

// TestEveryScheduler requires that each name a Snapshot may hold can be asked for.
func TestEveryScheduler(t *testing.T) {
	for _, s := range service.Schedulers() {
		var want []string
		for _, f := range service.SchedulerFlags() {
			if strings.HasPrefix(f, "flag-") || strings.HasPrefix(f, s+"-") {
				want = append(want, f)
			}
		}
		got, problems := Service(webService(func(o *corev1.Service) {
			o.Annotations = map[string]string{AnnotationScheduler: s, AnnotationSchedulerFlags: strings.Join(want, ",")}
		}))
		if problems != nil || got.Scheduling != (service.Scheduling{Algorithm: s, Flags: strings.Join(want, ",")}) {
			t.Errorf("%s with %v: got %+v, problems %v", s, want, got.Scheduling, problems)
		}
	}
}

func TestHeadlessHasNoScheduling(t *testing.T) {
	got, problems := Service(webService(func(o *corev1.Service) {
		o.Spec.ClusterIP, o.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
		o.Annotations = map[string]string{AnnotationScheduler: "x"}
	}))
	if problems != nil || got.Scheduling != (service.Scheduling{}) {
		t.Errorf("got %+v, problems %v; want neither: nothing balances it", got.Scheduling, problems)
	}
}

func TestWeight(t *testing.T) {
	var cases []sliceCase
	for _, tt := range []struct {
		value string
		want  uint16
		bad   bool
	}{
		{"1", 0, false}, {"2", 2, false}, {" 300 ", 300, false}, {"65535", 65535, false},
		{"0", 0, true}, {"65536", 0, true}, {"-1", 0, true}, {"+2", 0, true}, {"1.5", 0, true}, {"", 0, true},
		{"ten", 0, true}, {"0x10", 0, true}, {"1_0", 0, true}, {strings.Repeat("9", 300), 0, true},
	} {
		c := sliceCase{
			name: tt.value,
			in:   func(o *discoveryv1.EndpointSlice) { o.Annotations = map[string]string{AnnotationWeight: tt.value} },
			want: func(s *service.Slice) { s.Weight = tt.want },
		}
		if tt.bad {
			c.fields = []string{"metadata.annotations[fairlead.io/weight]"}
		}
		cases = append(cases, c)
	}
	runSliceCases(t, cases)
}
