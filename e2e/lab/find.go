//go:build linux

package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Names lists the kernels there may be: user-mode Linux, the kernel that the
// distribution installs under QEMU, and the newest it offers under QEMU.
func Names() []string { return []string{"uml", "qemu", "qemu-newest"} }

// Find makes the kernel of a name, one of [Names], ready to run jobs. It may
// download a package. The error says what is missing and how it is got.
func Find(ctx context.Context, name string) (*Kernel, error) {
	switch name {
	case "uml":
		return UML(ctx)
	case "qemu":
		return QEMU(ctx, Stock)
	case "qemu-newest":
		return QEMU(ctx, Newest)
	}
	return nil, fmt.Errorf("kernel %q: want one of %s", name, strings.Join(slices.Sorted(slices.Values(Names())), ", "))
}
