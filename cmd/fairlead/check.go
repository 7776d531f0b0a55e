package main

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/fairlead-project/fairlead/l7/annotation"
	"github.com/fairlead-project/fairlead/l7/ingress"
	l7kube "github.com/fairlead-project/fairlead/l7/kube"
	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube/watch"
)

const checkUsage = `fairlead check --migrate says what becomes of the Ingresses that ingress-nginx serves
when fairlead serves them: what stays the same, what will be different, what is not supported.

Usage:
  fairlead check --migrate -f FILE...        the Ingresses in files and folders
  fairlead check --migrate --kubeconfig F    those of a cluster; nothing is written to it

Exit status 1 means that something is not supported.`

// checkFlags are the flags of fairlead check.
type checkFlags struct {
	flags
	Files     []string
	Migrate   bool
	Output    string
	ConfigMap string
	Class     string
	All       bool
}

func (f *checkFlags) add(fs *pflag.FlagSet) {
	fs.BoolVar(&f.Migrate, "migrate", false, "compare with ingress-nginx")
	fs.StringArrayVarP(&f.Files, "file", "f", nil, "file or folder of manifests; may be given more than once; without any, a cluster is read")
	fs.StringVarP(&f.Output, "output", "o", "text", "text or json")
	fs.StringVar(&f.ConfigMap, "configmap", "", "namespace/name of ingress-nginx' own ConfigMap, for the defaults in it")
	fs.StringVar(&f.Class, "ingress-class", "nginx", "value of the annotation kubernetes.io/ingress.class that means ingress-nginx, and the name of its class where there is no IngressClass")
	fs.BoolVar(&f.All, "all", false, "look at Ingresses of other controllers as well")
	f.addSource(fs)
}

// check is fairlead check.
func (c command) check(ctx context.Context, args []string) error {
	var f checkFlags
	if _, err := c.parse(checkUsage, args, f.add); err != nil {
		return err
	}
	name, err := parseName(f.ConfigMap)
	if err != nil {
		err = fmt.Errorf("--configmap: %w", err)
	}
	if !f.Migrate {
		err = errors.Join(err, errors.New("--migrate: is the only check there is, and must be asked for"))
	}
	if f.Output != "text" && f.Output != "json" {
		err = errors.Join(err, fmt.Errorf("--output: %q is not text or json", f.Output))
	}
	if err != nil {
		return usageError(err)
	}
	var objects l7Objects
	if len(f.Files) > 0 {
		objects = c.readFiles(f.Files)
	} else if objects, err = readCluster(ctx, &f); err != nil {
		return err
	}
	return c.report(&f, name, objects)
}

// l7Objects are what a report is made of.
type l7Objects struct {
	ingresses  []*networkingv1.Ingress
	classes    map[string]string // controllers by name
	secrets    map[service.Name]map[string][]byte
	configMaps map[service.Name]map[string]string
	bad        bool // not everything could be read
}

func newL7Objects() l7Objects {
	return l7Objects{
		classes: make(map[string]string), secrets: make(map[service.Name]map[string][]byte),
		configMaps: make(map[service.Name]map[string]string),
	}
}

// readFiles reads files and folders, and complains about what cannot be used.
func (c command) readFiles(paths []string) l7Objects {
	out := newL7Objects()
	found, errs := l7kube.Kinds().Load(paths...)
	for _, err := range errs {
		out.bad = true
		fmt.Fprintln(c.err, "fairlead:", err)
	}
	for _, o := range found {
		out.add(o.Value)
	}
	return out
}

// add takes an object, if it is one that counts.
func (o *l7Objects) add(value any) {
	switch v := value.(type) {
	case *networkingv1.Ingress:
		o.ingresses = append(o.ingresses, v)
	case *networkingv1.IngressClass:
		o.classes[v.Name] = v.Spec.Controller
	case *corev1.Secret:
		data := maps.Clone(v.Data)
		if data == nil {
			data = make(map[string][]byte)
		}
		for k, text := range v.StringData {
			data[k] = []byte(text)
		}
		o.secrets[service.Name{Namespace: v.Namespace, Name: v.Name}] = data
	case *corev1.ConfigMap:
		o.configMaps[service.Name{Namespace: v.Namespace, Name: v.Name}] = v.Data
	}
}

// readCluster reads what an API server has. Secrets and ConfigMaps are left alone, but for the one of ingress-nginx:
// who makes a report need not be allowed to see them.
func readCluster(ctx context.Context, f *checkFlags) (l7Objects, error) {
	out := newL7Objects()
	rc, err := watch.Config(f.Kubeconfig, f.Master, f.QPS, f.Burst)
	if err != nil {
		return out, err
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return out, fmt.Errorf("connect to the API server: %w", err)
	}
	classes, err := client.NetworkingV1().IngressClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return out, fmt.Errorf("list IngressClasses: %w", err)
	}
	for i := range classes.Items {
		out.add(&classes.Items[i])
	}
	list, err := client.NetworkingV1().Ingresses(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return out, fmt.Errorf("list Ingresses: %w", err)
	}
	for i := range list.Items {
		out.add(&list.Items[i])
	}
	if n, err := parseName(f.ConfigMap); err == nil && n.Name != "" {
		m, err := client.CoreV1().ConfigMaps(n.Namespace).Get(ctx, n.Name, metav1.GetOptions{})
		if err != nil {
			return out, fmt.Errorf("--configmap: %w", err)
		}
		out.add(m)
	}
	return out, nil
}

// report prints what Ingresses will meet.
func (c command) report(f *checkFlags, configMap service.Name, o l7Objects) error {
	in := annotation.ReportInput{}
	if len(f.Files) > 0 {
		in.SecretData = func(n service.Name) (map[string][]byte, bool) { d, ok := o.secrets[n]; return d, ok }
		in.ConfigMapData = func(n service.Name) (map[string]string, bool) { d, ok := o.configMaps[n]; return d, ok }
	}
	if data, ok := o.configMaps[configMap]; ok {
		g, findings := annotation.ParseGlobals(data)
		in.Globals = &g
		for _, finding := range findings {
			fmt.Fprintf(c.err, "fairlead: ConfigMap %v: %v\n", configMap, finding)
		}
	} else if configMap.Name != "" {
		return fmt.Errorf("--configmap: there is no ConfigMap %v", configMap)
	}
	for _, v := range o.ingresses {
		if f.All || o.nginx(v, f.Class) {
			in.Ingresses = append(in.Ingresses, reportIngress(v))
		}
	}
	entries := annotation.Report(in)
	write := annotation.WriteText
	if f.Output == "json" {
		write = annotation.WriteJSON
	}
	if err := write(c.out, entries); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	for i := range entries {
		o.bad = o.bad || len(entries[i].Unsupported) > 0
	}
	if o.bad {
		return errReported
	}
	return nil
}

// nginx reports whether ingress-nginx serves v.
func (o *l7Objects) nginx(v *networkingv1.Ingress, class string) bool {
	name := v.Annotations[l7kube.AnnotationClass]
	if v.Spec.IngressClassName != nil {
		name = *v.Spec.IngressClassName
		if controller, ok := o.classes[name]; ok {
			return controller == ingress.NginxController
		}
	}
	return name == class || name == ""
}

func reportIngress(v *networkingv1.Ingress) annotation.ReportIngress {
	out := annotation.ReportIngress{Name: service.Name{Namespace: v.Namespace, Name: v.Name}, Annotations: v.Annotations}
	for _, r := range v.Spec.Rules {
		if r.HTTP == nil {
			continue
		}
		for _, p := range r.HTTP.Paths {
			rule := annotation.ReportRule{Host: r.Host, Path: p.Path}
			if p.PathType != nil {
				rule.Type = string(*p.PathType)
			}
			out.Rules = append(out.Rules, rule)
		}
	}
	return out
}
