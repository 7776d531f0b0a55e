package kernel

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/fairlead-project/fairlead/service"
)

// ProbeSets makes a set of each type, and destroys all but one of the type
// hash:ip,port, which is called name: rules can be tried with it. The error names
// the types that are missing, with their kernel modules.
func ProbeSets(ctx context.Context, k Kernel, f service.Family, name string) error {
	var errs []error
	for _, t := range []struct {
		suffix, module string
		kind           SetType
	}{
		{"", "ip_set_hash_ipport", HashIPPort},
		{"-PORT", "ip_set_bitmap_port", BitmapPort},
		{"-IP", "ip_set_hash_ip", HashIP},
		{"-NET", "ip_set_hash_ipportnet", HashIPPortNet},
	} {
		set := Set{Name: name + t.suffix, Type: t.kind, Family: f, MaxElem: 64}
		if t.kind == BitmapPort {
			set.MaxElem = 0
		}
		ops := []Op{NewSet{Set: set}}
		if t.suffix != "" {
			ops = append(ops, DelSet{Name: set.Name})
		}
		failed, err := k.Apply(ctx, ops)
		if err != nil {
			return fmt.Errorf("%v: make ipsets: %w", f, err)
		}
		if len(failed) > 0 {
			errs = append(errs, fmt.Errorf("%v: sets of type %s are not possible; perhaps the kernel lacks %s: %w", f, t.kind, t.module, failed[0].Err))
		}
	}
	return errors.Join(errs...)
}

// releasing is how often, and with which pause, ReleaseSet tries: the nft tables let
// go of a set some time after the rule is gone.
const (
	releasing    = 20
	releasePause = 25 * time.Millisecond
)

// ReleaseSet destroys a set, if it exists. One that rules still hold after half a
// second is left alone.
func ReleaseSet(ctx context.Context, k Kernel, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for range releasing {
		failed, err := k.Apply(ctx, []Op{DelSet{Name: name}})
		if err != nil || len(failed) == 0 || errors.Is(failed[0].Err, syscall.ENOENT) {
			return err
		}
		if !errors.Is(failed[0].Err, syscall.EBUSY) {
			return failed[0]
		}
		time.Sleep(releasePause)
	}
	return nil
}
