package ingresstest

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/fairlead-project/fairlead/l7/ingress"
	"github.com/fairlead-project/fairlead/service"
)

// An object is one object in force.
type object struct {
	kind  string
	name  service.Name
	yaml  string
	addTo func(*ingress.Objects)
}

// put puts the objects of sections in force.
func (l *loader) put(names []string) error {
	for _, name := range names {
		s := l.sections[name]
		if s == nil {
			return fmt.Errorf("there is no section %s", name)
		}
		s.read = true
		d := yaml.NewDecoder(bytes.NewReader(s.data))
		for {
			var node yaml.Node
			if err := d.Decode(&node); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return fmt.Errorf("section %s: %w", name, err)
			}
			o, err := decode(&node)
			if err != nil {
				return fmt.Errorf("section %s: %w", name, err)
			}
			l.replace(o)
		}
	}
	return nil
}

// replace puts o in force.
func (l *loader) replace(o object) {
	same := func(p object) bool { return p.kind == o.kind && p.name == o.name }
	l.objects = append(slices.DeleteFunc(slices.Clone(l.objects), same), o)
}

// remove reads a delete directive.
func (l *loader) remove(args []string) error {
	if len(args) != 2 {
		return errors.New("want KIND NAMESPACE/NAME")
	}
	name, err := parseName(args[1])
	if args[0] == "IngressClass" {
		name, err = service.Name{Name: args[1]}, nil
	}
	if err != nil {
		return err
	}
	if args[0] == "Service" && l.dropService(name) {
		return nil
	}
	before := len(l.objects)
	l.objects = slices.DeleteFunc(slices.Clone(l.objects), func(o object) bool { return o.kind == args[0] && o.name == name })
	if len(l.objects) == before {
		return fmt.Errorf("there is no %s %s", args[0], args[1])
	}
	return nil
}

// defaultClasses puts the classes in force that a case expects without saying so.
func (l *loader) defaultClasses() {
	if l.classes {
		return
	}
	l.replace(class("fairlead", ingress.Controller))
	if l.c.Config.Nginx {
		l.replace(class("nginx", ingress.NginxController))
	}
}

func class(name, controller string) object {
	return object{
		kind: "IngressClass", name: service.Name{Name: name},
		yaml: fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: %s\nspec:\n  controller: %s\n", name, controller),
		addTo: func(o *ingress.Objects) {
			o.Classes = append(o.Classes, &ingress.Class{Name: name, UID: "class-" + name, Controller: controller})
		},
	}
}

// secret reads a secret directive.
func (l *loader) secret(args []string) error {
	if len(args) < 2 {
		return errors.New("want NAMESPACE/NAME HOST…")
	}
	name, err := parseName(args[0])
	if err != nil {
		return err
	}
	s := &ingress.Secret{Name: name, UID: "secret-" + name.Name, Type: "kubernetes.io/tls"}
	var hosts []string
	var rsa, broken bool
	for _, arg := range args[1:] {
		if t, ok := strings.CutPrefix(arg, "type="); ok {
			s.Type = t
			continue
		}
		switch arg {
		case "rsa":
			rsa = true
		case "broken":
			broken = true
		default:
			hosts = append(hosts, arg)
		}
	}
	crt, key, err := Certificate(rsa, hosts...)
	if err != nil {
		return err
	}
	if broken {
		crt = []byte("this is not PEM")
	}
	s.Data = map[string][]byte{"tls.crt": crt, "tls.key": key}
	l.replace(object{
		kind: "Secret", name: name, yaml: secretYAML(s),
		addTo: func(o *ingress.Objects) { o.Secrets = append(o.Secrets, s) },
	})
	return nil
}

func secretYAML(s *ingress.Secret) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\ntype: %s\ndata:\n", s.Name.Name, s.Namespace, s.Type)
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		fmt.Fprintf(&b, "  %s: %s\n", key, base64.StdEncoding.EncodeToString(s.Data[key]))
	}
	return b.String()
}

// meta is what all objects have.
type meta struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct {
		Name, Namespace, UID string
		Generation           int64
		CreationTimestamp    time.Time `yaml:"creationTimestamp"`
		Annotations          map[string]string
	}
}

func (m *meta) name() service.Name {
	return service.Name{Namespace: m.Metadata.Namespace, Name: m.Metadata.Name}
}

// decode reads one document.
func decode(node *yaml.Node) (object, error) {
	text, err := yaml.Marshal(node)
	if err != nil {
		return object{}, err
	}
	var m meta
	if err := node.Decode(&m); err != nil {
		return object{}, err
	}
	if m.Metadata.Namespace == "" && m.Kind != "IngressClass" {
		m.Metadata.Namespace = "default"
	}
	o := object{kind: m.Kind, name: m.name(), yaml: string(text)}
	strict := yaml.NewDecoder(bytes.NewReader(text))
	strict.KnownFields(true)
	switch m.Kind {
	case "Ingress":
		var in ingressYAML
		err = strict.Decode(&in)
		in.meta.Metadata = m.Metadata
		made := in.ingress()
		o.addTo = func(to *ingress.Objects) { to.Ingresses = append(to.Ingresses, made) }
	case "IngressClass":
		var c classYAML
		err = strict.Decode(&c)
		made := &ingress.Class{Name: m.Metadata.Name, UID: m.Metadata.UID, Controller: c.Spec.Controller}
		o.addTo = func(to *ingress.Objects) { to.Classes = append(to.Classes, made) }
	case "Secret":
		var s secretYAMLDoc
		err = strict.Decode(&s)
		made := &ingress.Secret{Name: m.name(), Type: s.Type, Data: make(map[string][]byte)}
		for key, value := range s.StringData {
			made.Data[key] = []byte(value)
		}
		o.addTo = func(to *ingress.Objects) { to.Secrets = append(to.Secrets, made) }
	case "ConfigMap":
		var c configMapYAML
		err = strict.Decode(&c)
		made := &ingress.ConfigMap{Name: m.name(), Data: c.Data}
		o.addTo = func(to *ingress.Objects) { to.ConfigMaps = append(to.ConfigMaps, made) }
	default:
		err = fmt.Errorf("kind %q is not known here", m.Kind)
	}
	return o, err
}

type classYAML struct {
	meta `yaml:",inline"`
	Spec struct{ Controller string }
}

type secretYAMLDoc struct {
	meta       `yaml:",inline"`
	Type       string
	StringData map[string]string `yaml:"stringData"`
}

type configMapYAML struct {
	meta `yaml:",inline"`
	Data map[string]string
}

type ingressYAML struct {
	meta `yaml:",inline"`
	Spec struct {
		IngressClassName string       `yaml:"ingressClassName"`
		DefaultBackend   *backendYAML `yaml:"defaultBackend"`
		TLS              []struct {
			Hosts      []string
			SecretName string `yaml:"secretName"`
		} `yaml:"tls"`
		Rules []struct {
			Host string
			HTTP *struct {
				Paths []struct {
					Path     string
					PathType string `yaml:"pathType"`
					Backend  backendYAML
				}
			} `yaml:"http"`
		}
	}
}

type backendYAML struct {
	Service *struct {
		Name string
		Port struct {
			Name   string
			Number int32
		}
	}
	Resource *struct {
		APIGroup string `yaml:"apiGroup"`
		Kind     string
		Name     string
	}
}

func (b *backendYAML) backend() ingress.Backend {
	var out ingress.Backend
	if b.Service != nil {
		out.Service = b.Service.Name
		out.Port = ingress.Port{Name: b.Service.Port.Name, Number: b.Service.Port.Number}
	}
	if b.Resource != nil {
		out.Resource = b.Resource.APIGroup + "/" + b.Resource.Kind + "/" + b.Resource.Name
	}
	return out
}

func (y *ingressYAML) ingress() *ingress.Ingress {
	in := &ingress.Ingress{
		Name: y.name(), UID: y.Metadata.UID, Generation: y.Metadata.Generation, Created: y.Metadata.CreationTimestamp,
		Annotations: y.Metadata.Annotations, Class: y.Spec.IngressClassName,
	}
	if y.Spec.DefaultBackend != nil {
		b := y.Spec.DefaultBackend.backend()
		in.Default = &b
	}
	for _, t := range y.Spec.TLS {
		in.TLS = append(in.TLS, ingress.TLS{Hosts: t.Hosts, Secret: t.SecretName})
	}
	for _, r := range y.Spec.Rules {
		rule := ingress.Rule{Host: r.Host}
		if r.HTTP != nil {
			for _, p := range r.HTTP.Paths {
				rule.Paths = append(rule.Paths, ingress.Path{Path: p.Path, Type: ingress.PathType(p.PathType), Backend: p.Backend.backend()})
			}
		}
		in.Rules = append(in.Rules, rule)
	}
	return in
}
