package watch

import "testing"

// FuzzParseAddresses: what is taken comes out the same when it is written down and read again.
func FuzzParseAddresses(f *testing.F) {
	f.Add("203.0.113.10, lb.example.com")
	f.Add("::ffff:1.2.3.4,fe80::1%eth0,,x.")
	f.Fuzz(func(t *testing.T, list string) {
		addresses, err := ParseAddresses(list)
		if err != nil {
			return
		}
		text := describe(loadBalancer(addresses))
		again, err := ParseAddresses(text)
		if err != nil || describe(loadBalancer(again)) != text {
			t.Errorf("%q is %q, and that is %q, %v", list, text, describe(loadBalancer(again)), err)
		}
	})
}
