// Command kubectl is kubectl of the Kubernetes release in go.mod, for tests on
// machines that have none.
package main

import (
	"os"

	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cmd.NewDefaultKubectlCommand().Execute(); err != nil {
		util.CheckErr(err) // says it as kubectl does, and exits
		os.Exit(1)
	}
}
