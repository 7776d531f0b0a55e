package main

import (
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-project/fairlead/service"
	"github.com/fairlead-project/fairlead/service/kube"
	"github.com/fairlead-project/fairlead/service/kube/manifests"
)

// A world is what manifests say.
type world struct {
	store *service.Store
	nodes map[string]kube.NodeInfo // by name
	bad   bool                     // something was wrong with a manifest
}

// load reads manifests into a Store. What is wrong with them is printed on the
// error output, with file and line, and left out.
func (c command) load(paths []string) world {
	objects, wrong := manifests.Load(paths...)
	w := world{store: service.NewStore(), nodes: nodes(objects)}
	for _, err := range wrong {
		fmt.Fprintln(c.err, err)
		w.bad = true
	}
	var convert kube.Converter
	entries := make(map[service.Object]kube.Entry, len(objects))
	for _, o := range objects {
		var problems []service.Problem
		if n, ok := o.Value.(*corev1.Node); ok {
			_, problems = kube.Node(n)
		} else {
			entries[o.ID], problems = convert.Convert(o.Value)
		}
		for _, p := range problems {
			fmt.Fprintf(c.err, "%s:%d: %s\n", o.File, o.Line, p)
			w.bad = true
		}
	}
	var mirror kube.Mirror
	mirror.Replace(len(entries), maps.All(entries))(w.store)
	return w
}

// nodes returns what the Nodes among objects say, by name.
func nodes(objects manifests.Objects) map[string]kube.NodeInfo {
	out := make(map[string]kube.NodeInfo)
	for _, o := range objects {
		if n, ok := o.Value.(*corev1.Node); ok {
			info, _ := kube.Node(n)
			out[info.Name] = info
		}
	}
	return out
}
