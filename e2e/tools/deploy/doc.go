// Package deploy holds the programs that prove the folder deploy right, in a module
// of its own: what Helm and kubectl need never reaches fairlead's go.mod. Nothing
// here is part of fairlead.
//
//   - chart checks the Helm chart, and renders it, with Helm's own packages;
//   - kubectl is kubectl, with the kustomize that is in it.
//
// The versions of Kubernetes' modules are those of e2e/tools, so that most of what
// is compiled for one is there for the other.
package deploy
