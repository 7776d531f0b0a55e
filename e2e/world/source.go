//go:build linux

package world

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/fairlead-project/fairlead/e2e/netns"
	"github.com/fairlead-project/fairlead/service"
)

// State is what is to be in force at a moment.
type State struct {
	Zone     string // of n1; empty for none
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
	Marker   *Marker // required
}

// A Problem is what a proxy complained about, as the corpus writes it.
type Problem struct {
	Kind   string
	Object service.Name
	Reason string
}

// String returns "Service default/web FrontendConflict".
func (p Problem) String() string { return p.Kind + " " + p.Object.String() + " " + p.Reason }

// A Source brings objects to proxies.
type Source interface {
	// Args make a proxy follow this source.
	Args() []string
	// HasNode reports whether the proxy finds pod CIDRs at its Node object.
	HasNode() bool
	// Reset forgets the objects and complaints of the last case. No proxy may be
	// there to see it.
	Reset(context.Context) error
	// Put replaces everything there by a State, the marker last.
	Put(context.Context, State) error
	// Problems lists what a proxy has complained about since it was started. It
	// may take a while until everything is there.
	Problems(context.Context, *Proxy) ([]Problem, error)
}

// Manifests is a folder of manifests. It implements [Source].
type Manifests struct {
	dir string
}

// NewManifests returns a source in a folder, which must exist and be empty.
func NewManifests(dir string) *Manifests { return &Manifests{dir: dir} }

// Args implements [Source].
func (m *Manifests) Args() []string { return []string{"--manifests=" + m.dir} }

// HasNode implements [Source].
func (m *Manifests) HasNode() bool { return false }

// Reset implements [Source]. The next Put replaces all objects anyway, and the
// complaints are in the log of the process that made them.
func (m *Manifests) Reset(context.Context) error { return nil }

// Put implements [Source]. Each kind has a file, which is replaced as a whole.
func (m *Manifests) Put(_ context.Context, s State) error {
	var svcs, sls, marker []any
	for _, o := range s.Services {
		svcs = append(svcs, o)
	}
	for _, o := range s.Slices {
		sls = append(sls, o)
	}
	for _, o := range s.Marker.Services() {
		marker = append(marker, o)
	}
	for _, o := range s.Marker.Slices() {
		marker = append(marker, o)
	}
	for _, f := range []struct {
		name    string
		objects []any
	}{
		{"node.yaml", []any{nodeObject(s.Zone)}},
		{"services.yaml", svcs},
		{"slices.yaml", sls},
		{"zz-marker.yaml", marker},
	} {
		if err := m.write(f.name, f.objects); err != nil {
			return fmt.Errorf("write manifest %s: %w", f.name, err)
		}
	}
	return nil
}

func (m *Manifests) write(name string, objects []any) error {
	path := filepath.Join(m.dir, name)
	if len(objects) == 0 {
		if err := os.Remove(path); !os.IsNotExist(err) {
			return err
		}
		return nil
	}
	var text strings.Builder
	for _, o := range objects {
		b, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		text.WriteString("---\n")
		text.Write(b)
	}
	if old, err := os.ReadFile(path); err == nil && string(old) == text.String() {
		return nil
	}
	// The name says that it is not a manifest, for the moment it is there.
	tmp := filepath.Join(m.dir, "."+name+".tmp")
	if err := os.WriteFile(tmp, []byte(text.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// nodeObject is n1.
func nodeObject(zone string) *corev1.Node {
	n := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
	}
	if zone != "" {
		n.Labels = map[string]string{corev1.LabelTopologyZone: zone}
	}
	for _, p := range netns.PodCIDR(1).Slice() {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, p.String())
	}
	n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	for _, a := range netns.NodeAddr(1).Slice() {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	return n
}

// problemLine is what fairlead logs of a problem.
var problemLine = regexp.MustCompile(`msg=problem reason=(\w+) problem="(\w+) ([^ /]+)/([^ /:]+): `)

// Problems implements [Source], from the log.
func (m *Manifests) Problems(_ context.Context, p *Proxy) ([]Problem, error) {
	var out []Problem
	lines := bufio.NewScanner(strings.NewReader(p.Output()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if f := problemLine.FindStringSubmatch(lines.Text()); f != nil {
			out = append(out, Problem{Kind: f[2], Object: service.Name{Namespace: f[3], Name: f[4]}, Reason: f[1]})
		}
	}
	return out, lines.Err()
}
