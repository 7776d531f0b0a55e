//go:build linux

package world

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDraining(t *testing.T) {
	const text = `-A -t 10.96.0.1:443 -s rr
-a -t 10.96.0.1:443 -r 10.244.1.2:8080 -m -w 1
-a -t 10.96.0.1:443 -r 10.244.1.3:8080 -m -w 0
-A -u 10.96.0.10:53 -s rr -p 10800
-a -u 10.96.0.10:53 -r 10.244.1.3:53 -m -w 0
-A --sctp-service [fd00:10:96::10]:80 -s wlc
-a --sctp-service [fd00:10:96::10]:80 -r [fd00:10:244:1::4]:8080 -m -w 0
-A -t 10.96.255.1:10001 -s rr
-A -t 10.96.255.1:10002 -s rr
-A -t [fd00:10:96::ff01]:10001 -s rr
-A -t [fd00:10:96::ff01]:10002 -s rr
-A -f 7 -s rr
-a -f 7 -r 10.244.1.2:8080 -m -w 10
`
	want := []string{
		"-t 10.96.0.1:443 -r 10.244.1.3:8080 -m -w 0",
		"--sctp-service [fd00:10:96::10]:80 -r [fd00:10:244:1::4]:8080 -m -w 0",
		"-t 10.96.255.1:10001 -s rr",
		"-t [fd00:10:96::ff01]:10001 -s rr",
	}
	if d := cmp.Diff(parseDraining(text, 10002), want); d != "" {
		t.Errorf("(-got +want):\n%s", d)
	}
}
