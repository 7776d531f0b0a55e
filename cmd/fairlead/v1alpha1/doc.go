// Package v1alpha1 is the configuration of fairlead that kube-proxy has no place for, as it is written in a
// file: apiVersion fairlead.io/v1alpha1, kind FairleadConfiguration. Everything that kube-proxy has too stays in its
// KubeProxyConfiguration.
//
// A field that is absent or null leaves its flag as it is; a flag on the command line wins over its field. Each field
// has the flag of the same meaning beside it in the table of package main, and docs/configuration.md has both.
//
// A new setting is a flag, a field here, and a row of that table; a test of package main fails if one is missing.
package v1alpha1
