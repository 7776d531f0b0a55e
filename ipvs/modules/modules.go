// Package modules loads kernel modules that must not be loaded by the kernel
// itself when they are first used.
package modules

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Schedulers are the modules of schedulers that the kernel loads, under the lock
// of IPVS, when a virtual server first asks for them, and that wait for network
// namespaces to go while they start, which wait for the same lock. No namespace
// can be made or removed then. (Seen with Linux 6.1.)
func Schedulers() []string { return []string{"ip_vs_lblc", "ip_vs_lblcr"} }

// patience is how long one module may take.
const patience = 10 * time.Second

// Load loads a module with modprobe(8); one that is loaded, or built in, is no
// error. The error says what modprobe said.
func Load(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "modprobe", "--quiet", "--", name)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if said := strings.TrimSpace(string(out)); said != "" {
		return fmt.Errorf("modprobe %s: %w: %.200s", name, err, said)
	}
	return fmt.Errorf("modprobe %s: %w", name, err)
}
