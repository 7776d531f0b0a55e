//go:build linux

package world

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDraining(t *testing.T) {
	const text = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr
  -> 0AF40102:1F90      Masq    1      0          0
  -> 0AF40103:1F90      Masq    0      2          1
UDP  0A60000A:0035 rr persistent 10800
  -> 0AF40103:0035      Masq    0      0          1
SCTP [fd00:0010:0096:0000:0000:0000:0000:0010]:0050 wlc
  -> [fd00:0010:0244:0001:0000:0000:0000:0004]:1F90      Masq    0      0          0
TCP  0A60FF01:2711 rr
TCP  0A60FF01:2712 rr
TCP  [fd00:0010:0096:0000:0000:0000:0000:ff01]:2711 rr
TCP  [fd00:0010:0096:0000:0000:0000:0000:ff01]:2712 rr
FWM  00000007 rr
  -> 0AF40102:1F90      Masq    10     0          0
`
	want := []string{
		"TCP 0A600001:01BB -> 0AF40103:1F90 Masq 0 2 1",
		"SCTP [fd00:0010:0096:0000:0000:0000:0000:0010]:0050 -> [fd00:0010:0244:0001:0000:0000:0000:0004]:1F90 Masq 0 0 0",
		"TCP 0A60FF01:2711",
		"TCP [fd00:0010:0096:0000:0000:0000:0000:ff01]:2711",
	}
	if d := cmp.Diff(parseDraining(text, 0x2712), want); d != "" {
		t.Errorf("(-got +want):\n%s", d)
	}
}
