//go:build linux

package controlplane

import (
	"net/netip"
	"strings"
	"testing"
)

func TestOptionsValidate(t *testing.T) {
	prefixes := func(s ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	tests := []struct {
		name string
		opts Options
		want []string // each to be found in the error; none for no error
	}{
		{name: "zero"},
		{
			name: "all addresses",
			opts: Options{BindAddress: netip.IPv4Unspecified(), AdvertiseAddress: netip.MustParseAddr("172.18.0.1")},
		},
		{
			name: "IPv6 only",
			opts: Options{BindAddress: netip.IPv6Loopback(), ServiceCIDRs: prefixes("fd00:10:96::/112")},
		},
		{
			name: "nothing to advertise",
			opts: Options{BindAddress: netip.IPv4Unspecified()},
			want: []string{"AdvertiseAddress: required"},
		},
		{
			name: "everything wrong",
			opts: Options{
				BindAddress:  netip.IPv6Unspecified(),
				ServiceCIDRs: append(prefixes("10.96.0.1/16", "10.97.0.0/16"), netip.Prefix{}),
			},
			want: []string{"required", "3 ranges", "ServiceCIDRs[0]", "ServiceCIDRs[2]", "not of the family"},
		},
		{
			name: "one family twice",
			opts: Options{ServiceCIDRs: prefixes("10.96.0.0/16", "10.97.0.0/16")},
			want: []string{"two ranges of one family"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.opts.Validate()
			if (err != nil) != (len(tt.want) > 0) {
				t.Fatalf("got %v, want an error: %v", err, len(tt.want) > 0)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q:\n%v", want, err)
				}
			}
		})
	}
}
