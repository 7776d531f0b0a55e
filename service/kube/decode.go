package kube

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-project/fairlead/service"
)

// A Decoder is a [Converter] for objects as the API server sends them, in
// protobuf. Of an object it reads what a conversion looks at, into an API object
// that it uses again for the next one, and has that converted. So the result is
// that of the conversion of the whole object, at a tenth of the price.
//
// Nothing of a result is part of the message. The zero Decoder is ready for use.
// It is for one goroutine.
type Decoder struct {
	Converter

	service serviceScratch
	slice   sliceScratch
}

// A Decoded is what a Decoder makes of an object.
type Decoded struct {
	service.Name
	Version  string // metadata.resourceVersion
	Complete bool   // a bookmark that ends the initial events of a watch
	Entry    Entry
	Problems []service.Problem
}

// Service decodes a message of type Service. An error names the object, as far as
// its name has been read.
func (d *Decoder) Service(raw []byte) (Decoded, error) {
	o := d.service.reset()
	err := d.service.read(message{rest: raw})
	d.settle(&o.ObjectMeta)
	return d.decoded("Service", &o.ObjectMeta, o, err)
}

// Slice decodes a message of type EndpointSlice. An error names the object, as
// far as its name has been read.
func (d *Decoder) Slice(raw []byte) (Decoded, error) {
	o := d.slice.reset()
	err := d.slice.read(message{rest: raw})
	d.settle(&o.ObjectMeta)
	return d.decoded("EndpointSlice", &o.ObjectMeta, o, err)
}

// settle replaces the strings of o that a conversion keeps as they are.
func (d *Decoder) settle(o *metav1.ObjectMeta) {
	o.Namespace = d.intern.share(o.Namespace)
	both, n := o.Name+o.ResourceVersion, len(o.Name) // one allocation
	o.Name, o.ResourceVersion = both[:n], both[n:]
	if n == 0 || len(both) == n { // then + has copied nothing
		o.Name, o.ResourceVersion = strings.Clone(o.Name), strings.Clone(o.ResourceVersion)
	}
}

func (d *Decoder) decoded(kind string, meta *metav1.ObjectMeta, o any, err error) (Decoded, error) {
	out := Decoded{
		Name:     service.Name{Namespace: meta.Namespace, Name: meta.Name},
		Version:  meta.ResourceVersion,
		Complete: meta.Annotations[metav1.InitialEventsAnnotationKey] == "true",
	}
	if err != nil {
		return out, fmt.Errorf("decode %s %.300q: %w", kind, out.Name.String(), err)
	}
	out.Entry, out.Problems = d.Convert(o)
	return out, nil
}

// readMeta reads what any conversion looks at. Labels and annotations of o must
// be maps.
func readMeta(m message, o *metav1.ObjectMeta) error {
	for m.next() {
		switch m.num {
		case 1:
			o.Name = m.text()
		case 3:
			o.Namespace = m.text()
		case 5:
			o.UID = types.UID(m.text())
		case 6:
			o.ResourceVersion = m.text()
		case 8:
			if b := m.bytes(); m.err == nil {
				m.err = o.CreationTimestamp.Unmarshal(b)
			}
		case 11:
			readPair(&m, o.Labels)
		case 12:
			readPair(&m, o.Annotations)
		}
	}
	return m.err
}

// readPair reads a label or an annotation, if a conversion looks at it.
func readPair(m *message, into map[string]string) {
	b := m.bytes()
	if m.err != nil {
		return
	}
	key, value, err := message{rest: b}.pair()
	switch {
	case err != nil:
		m.err = fmt.Errorf("field %d: %w", m.num, err)
	case wanted(key):
		into[key] = value
	}
}

// wanted reports whether a conversion looks at a label or annotation.
func wanted(key string) bool {
	switch key {
	case LabelProxyName, LabelHeadless, discoveryv1.LabelServiceName,
		AnnotationScheduler, AnnotationSchedulerFlags, AnnotationWeight, annotationRouterScheduler, annotationRouterFlags,
		corev1.EndpointsLastChangeTriggerTime, metav1.InitialEventsAnnotationKey:
		return true
	}
	return false
}
