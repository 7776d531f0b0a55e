package document

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/cmd/fairlead/v1alpha1"
)

// The kind of kube-proxy's document.
const proxyKind = "KubeProxyConfiguration"

// A Set is what the documents of one file, or of several, say.
type Set struct {
	Proxy *kubeproxy.KubeProxyConfiguration // nil if there is none; without defaults
	Own   *v1alpha1.FairleadConfiguration   // nil if there is none
	// Warnings are about fields of Proxy that are unknown or there twice, which kube-proxy ignores as well.
	Warnings []string
}

// Parse reads the documents in data, in YAML or JSON. Each kind may be there once, in any order.
//
// KubeProxyConfiguration is read as kube-proxy does: an unknown or repeated field is a warning, and of a repeated field
// the last is taken; a value of the wrong type, another apiVersion or kind, and bad YAML are errors.
// FairleadConfiguration is read strictly. What there is no document of is nil; no document at all is an error, as an
// empty file is to kube-proxy.
func Parse(data []byte) (Set, error) {
	var s Set
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 1; ; n++ {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Set{}, fmt.Errorf("split documents: %w", err)
		}
		if blank(doc) {
			n--
			continue
		}
		if err := s.add(doc); err != nil {
			if n == 1 {
				return Set{}, err
			}
			return Set{}, fmt.Errorf("document %d: %w", n, err)
		}
	}
	if s.Proxy == nil && s.Own == nil {
		return Set{}, errors.New("is empty; want a KubeProxyConfiguration")
	}
	return s, nil
}

// blank reports whether a document is nothing but comments.
func blank(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

func (s *Set) add(doc []byte) error {
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return fmt.Errorf("read YAML: %w", err)
	}
	switch head.APIVersion + "/" + head.Kind {
	case kubeproxy.SchemeGroupVersion.String() + "/" + proxyKind:
		return s.addProxy(doc)
	case v1alpha1.APIVersion + "/" + v1alpha1.Kind:
		return s.addOwn(doc)
	default:
		return fmt.Errorf("apiVersion %q, kind %q: want %s, %s, or beside it %s, %s", head.APIVersion, head.Kind,
			kubeproxy.SchemeGroupVersion, proxyKind, v1alpha1.APIVersion, v1alpha1.Kind)
	}
}

func (s *Set) addProxy(doc []byte) error {
	if s.Proxy != nil {
		return fmt.Errorf("a second %s", proxyKind)
	}
	scheme := runtime.NewScheme()
	if err := kubeproxy.AddToScheme(scheme); err != nil {
		return fmt.Errorf("register %s: %w", proxyKind, err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var out kubeproxy.KubeProxyConfiguration
	_, _, err := decoder.Decode(doc, nil, &out)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		for _, e := range strict.Errors() {
			s.Warnings = append(s.Warnings, complaints(e)...)
		}
		// Of a key that is there twice the strict decoder gives no value.
		out = kubeproxy.KubeProxyConfiguration{}
		_, _, err = serializer.NewCodecFactory(scheme, serializer.DisableStrict).UniversalDeserializer().Decode(doc, nil, &out)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", proxyKind, err)
	}
	s.Proxy = &out
	return nil
}

// complaints returns what an error of strict decoding is about: YAML puts all that is wrong into one.
func complaints(err error) []string {
	list, ok := strings.CutPrefix(err.Error(), "yaml: unmarshal errors:\n")
	if !ok {
		return []string{err.Error()}
	}
	var out []string
	for line := range strings.Lines(list) {
		out = append(out, strings.TrimSpace(line))
	}
	return out
}

func (s *Set) addOwn(doc []byte) error {
	if s.Own != nil {
		return fmt.Errorf("a second %s", v1alpha1.Kind)
	}
	var out v1alpha1.FairleadConfiguration
	text, err := yaml.YAMLToJSONStrict(doc)
	if err == nil {
		var strict []error
		strict, err = json.UnmarshalStrict(text, &out)
		err = errors.Join(append(strict, err)...)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", v1alpha1.Kind, err)
	}
	s.Own = &out
	return nil
}

// YAML returns the documents of s that there are, KubeProxyConfiguration first: of two, kube-proxy reads the first.
func (s Set) YAML() ([]byte, error) {
	var out []byte
	if s.Proxy != nil {
		text, err := yaml.Marshal(s.Proxy)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", proxyKind, err)
		}
		out = append(out, text...)
	}
	if s.Own != nil {
		text, err := yaml.Marshal(s.Own)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", v1alpha1.Kind, err)
		}
		if out != nil {
			out = append(out, "---\n"...)
		}
		out = append(out, text...)
	}
	return out, nil
}

// NewProxy returns a KubeProxyConfiguration that says what it is, and nothing else.
func NewProxy() *kubeproxy.KubeProxyConfiguration {
	out := &kubeproxy.KubeProxyConfiguration{}
	out.APIVersion, out.Kind = kubeproxy.SchemeGroupVersion.String(), proxyKind
	return out
}

// NewOwn is the same for a FairleadConfiguration.
func NewOwn() *v1alpha1.FairleadConfiguration {
	out := &v1alpha1.FairleadConfiguration{}
	out.APIVersion, out.Kind = v1alpha1.APIVersion, v1alpha1.Kind
	return out
}
