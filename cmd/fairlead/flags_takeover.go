package main

import "github.com/spf13/pflag"

// takeoverFlags say what becomes of what another proxy has left on the node.
type takeoverFlags struct{ Enabled bool }

func (f *takeoverFlags) add(fs *pflag.FlagSet) {
	fs.BoolVar(&f.Enabled, "takeover", true,
		"once everything is in force, remove what kube-proxy, or fairlead in another mode, has left in the kernel (not in kube-proxy)")
}
